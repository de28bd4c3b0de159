-- Done, unless somebody else has taken the job since. Returns the ids that were ours.
WITH gone AS (
    DELETE FROM {schema}.jobs j
    USING unnest(CAST(:ids AS bigint[]), CAST(:tokens AS uuid[])) AS mine(id, token)
    WHERE j.id = mine.id AND j.token = mine.token
    RETURNING j.*
),
freed AS (
    DELETE FROM {schema}.job_keys k USING gone
    WHERE k.service = gone.service AND k.key = gone.unique_key
        AND k.job_id = gone.id AND k.ends IS NULL
)
INSERT INTO {schema}.jobs_done (
    id, service, queue, name, arguments, enqueued_at, started_at, attempts, crashes, request_id
)
SELECT id, service, queue, name, arguments, enqueued_at, started_at, attempts, crashes, request_id
FROM gone
-- An id may come twice where a sequence was not carried over to a new server.
ON CONFLICT (id) DO UPDATE SET
    service = excluded.service, queue = excluded.queue, name = excluded.name,
    arguments = excluded.arguments, enqueued_at = excluded.enqueued_at,
    started_at = excluded.started_at, finished_at = excluded.finished_at,
    attempts = excluded.attempts, crashes = excluded.crashes, request_id = excluded.request_id
RETURNING id
