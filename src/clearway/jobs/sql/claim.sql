-- Take a lease of jobs that are due, the oldest of each queue first. Claimed is begun: a worker
-- asks for no more than it has free slots, so the attempt is counted here.
WITH RECURSIVE queues AS (
    -- The queues that have a job, by one index probe each ("loose index scan").
    (
        SELECT queue FROM {schema}.jobs
        WHERE service = CAST(:service AS text) AND body = CAST(:body AS text) AND token IS NULL
        ORDER BY queue LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT j.queue FROM {schema}.jobs j
        WHERE j.service = CAST(:service AS text) AND j.body = CAST(:body AS text)
            AND j.token IS NULL AND j.queue > q.queue
        ORDER BY j.queue LIMIT 1
    )
    FROM queues q WHERE q.queue IS NOT NULL
),
served AS (
    SELECT queue FROM queues
    WHERE queue IS NOT NULL
        AND (cardinality(CAST(:queues AS text[])) = 0 OR queue = ANY (CAST(:queues AS text[])))
    ORDER BY random() -- so that a long queue does not starve the others
),
due AS MATERIALIZED (
    SELECT picked.id
    FROM served CROSS JOIN LATERAL (
        SELECT j.id FROM {schema}.jobs j
        WHERE j.service = CAST(:service AS text) AND j.body = CAST(:body AS text)
            AND j.queue = served.queue AND j.token IS NULL AND j.run_at <= now()
            AND j.name = ANY (CAST(:names AS text[]))
            AND j.crashes BETWEEN CAST(:crashes_from AS integer) AND CAST(:crashes_to AS integer)
        ORDER BY j.run_at, j.id
        LIMIT CAST(:most AS integer)
        FOR UPDATE SKIP LOCKED
    ) picked
    LIMIT CAST(:most AS integer)
)
UPDATE {schema}.jobs j SET
    token = gen_random_uuid(),
    lease_until = now() + make_interval(secs => CAST(:lease AS double precision)),
    started_at = now(),
    attempts = attempts + 1
FROM due
WHERE j.id = due.id
RETURNING j.id, j.token, j.name, j.queue, CAST(j.arguments AS text) AS arguments,
    j.attempts AS attempt, j.crashes, j.enqueued_at, j.request_id, j.traceparent
