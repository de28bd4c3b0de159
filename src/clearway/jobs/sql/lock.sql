SELECT pg_advisory_xact_lock(hashtextextended('clearway store ' || CAST(:schema AS text), 0))
