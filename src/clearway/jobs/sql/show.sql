SELECT id, name, queue, CAST(arguments AS text) AS arguments, attempts, crashes, enqueued_at,
    CASE WHEN token IS NOT NULL THEN 'running' WHEN run_at > now() THEN 'later' ELSE 'waiting' END
        AS state,
    CASE WHEN token IS NOT NULL THEN started_at ELSE run_at END AS at,
    last_error AS error, NULL AS traceback, request_id
FROM {schema}.jobs WHERE id = CAST(:id AS bigint) AND service = CAST(:service AS text)
UNION ALL
SELECT id, name, queue, CAST(arguments AS text), attempts, crashes, enqueued_at, reason, failed_at,
    error, traceback, request_id
FROM {schema}.jobs_failed WHERE id = CAST(:id AS bigint) AND service = CAST(:service AS text)
UNION ALL
SELECT id, name, queue, CAST(arguments AS text), attempts, crashes, enqueued_at, 'done',
    finished_at, NULL, NULL, request_id
FROM {schema}.jobs_done WHERE id = CAST(:id AS bigint) AND service = CAST(:service AS text)
