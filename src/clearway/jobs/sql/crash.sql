-- A process died while it ran these jobs: not an attempt, but too many of it end in the failure
-- queue. With `lapsed` only what nobody has renewed in time.
WITH lost AS (
    SELECT j.id, mine.error
    FROM {schema}.jobs j
    JOIN unnest(CAST(:ids AS bigint[]), CAST(:tokens AS uuid[]), CAST(:errors AS text[]))
        AS mine(id, token, error) ON j.id = mine.id AND j.token = mine.token
    WHERE NOT CAST(:lapsed AS boolean) OR j.lease_until < now()
    FOR UPDATE OF j
),
gone AS (
    DELETE FROM {schema}.jobs j USING lost
    WHERE j.id = lost.id AND j.crashes + 1 >= CAST(:cap AS integer)
    RETURNING j.*, lost.error
),
freed AS (
    DELETE FROM {schema}.job_keys k USING gone
    WHERE k.service = gone.service AND k.key = gone.unique_key
        AND k.job_id = gone.id AND k.ends IS NULL
),
buried AS (
    INSERT INTO {schema}.jobs_failed (
        id, service, queue, body, name, arguments, enqueued_at, attempts, crashes, reason, error,
        request_id, traceparent
    )
    SELECT id, service, queue, body, name, arguments, enqueued_at, greatest(attempts - 1, 0),
        crashes + 1, 'crashed', error, request_id, traceparent
    FROM gone
    RETURNING id
),
again AS (
    UPDATE {schema}.jobs j SET
        token = NULL, lease_until = NULL, run_at = now(), last_error = lost.error,
        crashes = crashes + 1, attempts = greatest(attempts - 1, 0)
    FROM lost
    WHERE j.id = lost.id AND j.crashes + 1 < CAST(:cap AS integer)
    RETURNING j.id
)
SELECT id, false AS buried FROM again UNION ALL SELECT id, true FROM buried
