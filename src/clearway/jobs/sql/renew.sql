-- Renew leases; return the tokens that still hold one. A row that is locked is being completed
-- by its own run or taken by somebody else: it is left alone, and nobody waits for it.
WITH mine AS (
    SELECT j.id
    FROM {schema}.jobs j
    JOIN unnest(CAST(:ids AS bigint[]), CAST(:tokens AS uuid[])) AS held(id, token)
        ON j.id = held.id AND j.token = held.token
    FOR UPDATE OF j SKIP LOCKED
),
renewed AS (
    UPDATE {schema}.jobs j SET
        lease_until = now() + make_interval(secs => CAST(:lease AS double precision))
    FROM mine
    WHERE j.id = mine.id
)
SELECT j.token
FROM {schema}.jobs j
JOIN unnest(CAST(:ids AS bigint[]), CAST(:tokens AS uuid[])) AS held(id, token)
    ON j.id = held.id AND j.token = held.token
