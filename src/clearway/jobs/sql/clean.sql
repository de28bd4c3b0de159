-- Throw away what has been kept for long enough.
WITH done AS (
    DELETE FROM {schema}.jobs_done WHERE id IN (
        SELECT id FROM {schema}.jobs_done
        WHERE finished_at < now() - make_interval(secs => CAST(:keep_done AS double precision))
        ORDER BY finished_at LIMIT 5000
    )
),
failed AS (
    DELETE FROM {schema}.jobs_failed
    WHERE failed_at < now() - make_interval(secs => CAST(:keep_failed AS double precision))
),
keys AS (
    DELETE FROM {schema}.job_keys WHERE ends < now()
)
DELETE FROM {schema}.cron_slots WHERE slot < now() - interval '30 days'
