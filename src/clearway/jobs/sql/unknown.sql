-- Jobs whose name no worker of this service has known for so long end in the failure queue.
WITH gone AS (
    DELETE FROM {schema}.jobs j
    WHERE j.id IN (
        SELECT w.id FROM {schema}.jobs w
        WHERE w.service = CAST(:service AS text) AND w.token IS NULL
            AND w.run_at < now() - make_interval(secs => CAST(:patience AS double precision))
            AND NOT EXISTS (
                SELECT FROM {schema}.job_names n
                WHERE n.service = w.service AND n.name = w.name AND n.last_seen
                    > now() - make_interval(secs => CAST(:patience AS double precision))
            )
        LIMIT 500
        FOR UPDATE SKIP LOCKED
    )
    RETURNING j.*
),
freed AS (
    DELETE FROM {schema}.job_keys k USING gone
    WHERE k.service = gone.service AND k.key = gone.unique_key
        AND k.job_id = gone.id AND k.ends IS NULL
)
INSERT INTO {schema}.jobs_failed (
    id, service, queue, body, name, arguments, enqueued_at, attempts, crashes, reason, error,
    request_id, traceparent
)
SELECT id, service, queue, body, name, arguments, enqueued_at, attempts, crashes, 'unknown',
    'no worker knows a job of this name', request_id, traceparent
FROM gone
RETURNING id, name
