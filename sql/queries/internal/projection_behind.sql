-- How far the tables are behind the log, seconds: by what waits, or by how long nobody has projected. 0: not at all.
SELECT greatest(
  coalesce(max(CASE WHEN pending > 0 THEN extract(epoch FROM now() - stored_at) END), 0),
  coalesce(max(extract(epoch FROM now() - updated_at)) FILTER (WHERE updated_at < now() - INTERVAL '1 minute'), 0),
  0
)::double precision AS seconds
FROM coord.checkpoint
