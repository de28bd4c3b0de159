-- Enqueue the moments of schedules that nobody has enqueued yet.
WITH fresh AS (
    INSERT INTO {schema}.cron_slots (service, name, slot)
    SELECT CAST(:service AS text), *
    FROM unnest(CAST(:names AS text[]), CAST(:slots AS timestamptz[]))
    ORDER BY 2
    ON CONFLICT DO NOTHING
    RETURNING service, name, slot
)
INSERT INTO {schema}.jobs (service, queue, body, name, arguments, run_at)
SELECT fresh.service, n.queue, n.body, fresh.name, '{}', now()
FROM fresh JOIN {schema}.job_names n USING (service, name)
RETURNING id, name
