-- The names that a worker knows, and until when it was seen.
INSERT INTO {schema}.job_names AS n (service, name, queue, body, schedule, timezone)
SELECT CAST(:service AS text), *
FROM unnest(
    CAST(:names AS text[]), CAST(:queues AS text[]), CAST(:bodies AS text[]),
    CAST(:schedules AS text[]), CAST(:timezones AS text[])
)
ORDER BY 2
ON CONFLICT (service, name) DO UPDATE SET
    queue = excluded.queue, body = excluded.body, timezone = excluded.timezone,
    first_seen = CASE
        WHEN (n.schedule, n.timezone) IS DISTINCT FROM (excluded.schedule, excluded.timezone)
        THEN now() ELSE n.first_seen END,
    schedule = excluded.schedule, last_seen = now()
RETURNING name, first_seen, now() AS now
