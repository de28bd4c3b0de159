-- Any number of jobs by one statement. The id is NULL where a key of `unique` is held by somebody
-- else, whose row is not locked: the run that holds it has to be able to let go of it.
WITH wanted AS (
    SELECT *
    FROM unnest(
        CAST(:names AS text[]), CAST(:queues AS text[]), CAST(:bodies AS text[]),
        CAST(:arguments AS text[]), CAST(:delays AS double precision[]),
        CAST(:keys AS text[]), CAST(:windows AS double precision[])
    ) WITH ORDINALITY AS w(name, queue, body, arguments, delay, key, seconds, position)
),
numbered AS (
    SELECT *, nextval('{schema}.jobs_id_seq') AS id FROM wanted
),
held AS (
    INSERT INTO {schema}.job_keys AS k (service, key, job_id, ends)
    SELECT DISTINCT ON (key) CAST(:service AS text), key, id,
        to_timestamp((floor(extract(epoch FROM now()) / seconds) + 1) * seconds)
    FROM numbered
    WHERE key IS NOT NULL
    ORDER BY key, position
    ON CONFLICT (service, key) DO NOTHING
    RETURNING key, job_id
),
made AS (
    INSERT INTO {schema}.jobs (
        id, service, queue, body, name, arguments, run_at, unique_key, request_id, traceparent
    )
    SELECT n.id, CAST(:service AS text), n.queue, n.body, n.name, CAST(n.arguments AS json),
        now() + make_interval(secs => n.delay), n.key,
        CAST(:request_id AS text), CAST(:traceparent AS text)
    FROM numbered n LEFT JOIN held h USING (key)
    WHERE n.key IS NULL OR h.job_id = n.id
)
SELECT CASE WHEN n.key IS NULL THEN n.id ELSE h.job_id END AS id
FROM numbered n LEFT JOIN held h USING (key)
ORDER BY n.position
