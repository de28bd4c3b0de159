-- Any number of jobs by one statement. A key of `unique` that is held gives the holder's id.
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
    ON CONFLICT (service, key) DO UPDATE SET
        job_id = CASE WHEN k.ends <= now() THEN excluded.job_id ELSE k.job_id END,
        ends = CASE WHEN k.ends <= now() THEN excluded.ends ELSE k.ends END
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
SELECT coalesce(h.job_id, n.id) AS id
FROM numbered n LEFT JOIN held h USING (key)
ORDER BY n.position
