-- This process's job has ended: the session's lock, by its number $1.
SELECT pg_advisory_unlock($1)
