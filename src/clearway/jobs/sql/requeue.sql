-- Out of the failure queue, to run again from the first attempt. No ids: all of them.
WITH gone AS (
    DELETE FROM {schema}.jobs_failed
    WHERE service = CAST(:service AS text)
        AND (CAST(:ids AS bigint[]) IS NULL OR id = ANY (CAST(:ids AS bigint[])))
    RETURNING *
)
INSERT INTO {schema}.jobs (
    id, service, queue, body, name, arguments, enqueued_at, run_at, request_id, traceparent,
    last_error
)
SELECT id, service, queue, body, name, arguments, enqueued_at, now(), request_id, traceparent, error
FROM gone
RETURNING id, name
