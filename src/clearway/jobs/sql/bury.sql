-- Into the failure queue.
WITH gone AS (
    DELETE FROM {schema}.jobs j
    USING unnest(
        CAST(:ids AS bigint[]), CAST(:tokens AS uuid[]),
        CAST(:errors AS text[]), CAST(:tracebacks AS text[])
    ) AS mine(id, token, error, traceback)
    WHERE j.id = mine.id AND j.token = mine.token
    RETURNING j.*, mine.error, mine.traceback
),
freed AS (
    DELETE FROM {schema}.job_keys k USING gone
    WHERE k.service = gone.service AND k.key = gone.unique_key
        AND k.job_id = gone.id AND k.ends IS NULL
)
INSERT INTO {schema}.jobs_failed (
    id, service, queue, body, name, arguments, enqueued_at, attempts, crashes, reason, error,
    traceback, request_id, traceparent
)
SELECT id, service, queue, body, name, arguments, enqueued_at, attempts, crashes, 'failed', error,
    traceback, request_id, traceparent
FROM gone
RETURNING id
