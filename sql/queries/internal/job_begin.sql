-- One process at a time does a job: the session's lock, by its number $1.
SELECT pg_try_advisory_lock($1)
