-- Jobs that nobody has renewed in time. None while the server itself was away: their workers
-- have one whole lease to say that they live. A row that is locked may be of a stopped worker that
-- was about to complete it: the next look will tell.
SELECT id, token, name
FROM {schema}.jobs
WHERE service = CAST(:service AS text) AND token IS NOT NULL AND lease_until < now()
    AND now() > pg_postmaster_start_time() + make_interval(secs => CAST(:lease AS double precision))
ORDER BY lease_until
LIMIT 500
FOR UPDATE SKIP LOCKED
