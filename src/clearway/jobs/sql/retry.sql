-- Wait for another attempt.
UPDATE {schema}.jobs j SET
    token = NULL, lease_until = NULL, last_error = mine.error,
    run_at = now() + make_interval(secs => mine.delay)
FROM unnest(
    CAST(:ids AS bigint[]), CAST(:tokens AS uuid[]),
    CAST(:delays AS double precision[]), CAST(:errors AS text[])
) AS mine(id, token, delay, error)
WHERE j.id = mine.id AND j.token = mine.token
RETURNING j.id
