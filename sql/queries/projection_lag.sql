-- How far the tables are behind the log, by partition.
-- coord: dashboard
-- :stream  only this stream; empty: both
-- silent_seconds above 10 means that nobody projects; then the other columns are old.
SELECT
  l.stream, l.partition, l.epoch, l.seq, l.pending,
  round(l.lag_seconds::numeric, 3)::double precision AS lag_seconds,
  round(l.silent_seconds::numeric, 1)::double precision AS silent_seconds,
  l.stored_at
FROM coord.v_projection_lag AS l
WHERE :'stream' = '' OR l.stream = :'stream'
ORDER BY l.stream, l.partition
