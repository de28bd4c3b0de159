SELECT id, name, queue, CAST(arguments AS text) AS arguments, attempts, crashes, enqueued_at,
    CASE WHEN token IS NOT NULL THEN 'running' WHEN run_at > now() THEN 'later' ELSE 'waiting' END
        AS state,
    CASE WHEN token IS NOT NULL THEN started_at ELSE run_at END AS at, last_error AS error
FROM {schema}.jobs
WHERE service = CAST(:service AS text)
ORDER BY token IS NULL, run_at, id
LIMIT CAST(:most AS integer)
