-- Forget keys of `unique` whose window is over.
DELETE FROM {schema}.job_keys
WHERE service = CAST(:service AS text) AND key = ANY (CAST(:keys AS text[])) AND ends <= now()
