-- Who holds keys of `unique`.
SELECT key, job_id FROM {schema}.job_keys
WHERE service = CAST(:service AS text) AND key = ANY (CAST(:keys AS text[]))
