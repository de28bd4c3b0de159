-- Enqueue a scheduled job now, beside its schedule.
INSERT INTO {schema}.jobs (service, queue, body, name, arguments, run_at)
SELECT service, queue, body, name, '{}', now()
FROM {schema}.job_names
WHERE service = CAST(:service AS text) AND name = CAST(:name AS text) AND schedule IS NOT NULL
RETURNING id
