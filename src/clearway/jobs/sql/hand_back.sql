-- Give a job back as if it had never been begun.
UPDATE {schema}.jobs j SET
    token = NULL, lease_until = NULL, attempts = greatest(attempts - 1, 0)
FROM unnest(CAST(:ids AS bigint[]), CAST(:tokens AS uuid[])) AS mine(id, token)
WHERE j.id = mine.id AND j.token = mine.token
RETURNING j.id
