-- Terms of the session: as long as it takes, but never long in a queue for a lock.
-- From pg_settings, because transaction_timeout and idle_session_timeout are not in every version.
SELECT set_config(
    name, CASE name WHEN 'lock_timeout' THEN CAST(:lock_timeout AS text) ELSE '0' END, false
)
FROM pg_settings
WHERE name IN (
    'lock_timeout', 'statement_timeout', 'transaction_timeout',
    'idle_in_transaction_session_timeout', 'idle_session_timeout'
)
