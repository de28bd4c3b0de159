-- Who may have how many connections, and who has how many: everything in one round trip.
-- A role without pg_read_all_stats sees the rows of others, but neither their names nor kinds.
WITH client AS (
    SELECT datname, usename,
           coalesce(application_name, '') AS name,
           left(coalesce(application_name, ''), length(:service) + 1) = :service || '#' AS ours
    FROM pg_stat_activity
    WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
)
SELECT pg_backend_pid() AS pid,
       current_setting('max_connections')::int AS most,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit,
       count(*) FILTER (WHERE NOT ours) AS others,
       count(*) FILTER (WHERE NOT ours AND usename = current_user) AS others_of_role,
       count(*) FILTER (WHERE NOT ours AND datname = current_database()) AS others_in_database,
       count(DISTINCT name) FILTER (WHERE ours) AS processes
FROM client
