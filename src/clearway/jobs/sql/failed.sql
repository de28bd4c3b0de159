SELECT id, name, queue, CAST(arguments AS text) AS arguments, attempts, crashes, enqueued_at,
    reason AS state, failed_at AS at, error
FROM {schema}.jobs_failed
WHERE service = CAST(:service AS text)
ORDER BY failed_at DESC, id DESC
LIMIT CAST(:most AS integer)
