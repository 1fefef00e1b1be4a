-- How far the tables are behind the log, seconds: by the age of what waits, and by how long nobody has projected.
SELECT
  greatest(coalesce(max(CASE WHEN pending > 0 THEN extract(epoch FROM now() - stored_at) END), 0), 0)::double precision AS waiting_s,
  greatest(coalesce(max(extract(epoch FROM now() - updated_at)), 0), 0)::double precision AS silent_s
FROM coord.checkpoint
