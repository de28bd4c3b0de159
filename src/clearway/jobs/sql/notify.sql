SELECT pg_notify(CAST(:channel AS text), '')
