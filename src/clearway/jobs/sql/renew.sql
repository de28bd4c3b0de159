UPDATE {schema}.jobs j SET
    lease_until = now() + make_interval(secs => CAST(:lease AS double precision))
FROM unnest(CAST(:ids AS bigint[]), CAST(:tokens AS uuid[])) AS held(id, token)
WHERE j.id = held.id AND j.token = held.token
RETURNING j.id
