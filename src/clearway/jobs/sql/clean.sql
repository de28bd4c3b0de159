-- Throw away what this service has kept for long enough, and return how many jobs that were done.
WITH done AS (
    DELETE FROM {schema}.jobs_done WHERE id IN (
        SELECT id FROM {schema}.jobs_done
        WHERE service = CAST(:service AS text)
            AND finished_at < now() - make_interval(secs => CAST(:keep_done AS double precision))
        ORDER BY finished_at LIMIT CAST(:most AS integer)
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id
),
failed AS (
    DELETE FROM {schema}.jobs_failed WHERE id IN (
        SELECT id FROM {schema}.jobs_failed
        WHERE service = CAST(:service AS text)
            AND failed_at < now() - make_interval(secs => CAST(:keep_failed AS double precision))
        LIMIT CAST(:most AS integer)
        FOR UPDATE SKIP LOCKED
    )
),
keys AS (
    DELETE FROM {schema}.job_keys WHERE (service, key) IN (
        SELECT service, key FROM {schema}.job_keys
        WHERE service = CAST(:service AS text) AND ends < now()
        LIMIT CAST(:most AS integer)
        FOR UPDATE SKIP LOCKED
    )
),
slots AS (
    DELETE FROM {schema}.cron_slots WHERE (service, name, slot) IN (
        SELECT service, name, slot FROM {schema}.cron_slots
        WHERE service = CAST(:service AS text) AND slot < now() - interval '31 days'
        LIMIT CAST(:most AS integer)
        FOR UPDATE SKIP LOCKED
    )
)
SELECT count(*) FROM done
