-- Jobs that wait were enqueued by whatever version of the application was there. What kind of slot
-- one takes is said by the version that is to run it: where run_in was changed, they follow.
UPDATE {schema}.jobs j SET body = mine.body
FROM unnest(CAST(:names AS text[]), CAST(:bodies AS text[])) AS mine(name, body)
WHERE j.service = CAST(:service AS text) AND j.name = mine.name AND j.body <> mine.body
    AND j.token IS NULL
