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
RETURNING id
