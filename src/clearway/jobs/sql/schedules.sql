SELECT n.name, n.schedule, n.timezone, n.last_seen,
    (SELECT max(slot) FROM {schema}.cron_slots s WHERE s.service = n.service AND s.name = n.name)
        AS last_slot
FROM {schema}.job_names n
WHERE n.service = CAST(:service AS text) AND n.schedule IS NOT NULL
ORDER BY n.name
