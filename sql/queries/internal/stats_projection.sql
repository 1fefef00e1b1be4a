-- How far the tables are behind the log, one row a stream.
SELECT
  l.stream,
  count(*)::integer AS partitions,
  sum(l.pending)::bigint AS pending,
  max(l.lag_seconds) AS lag_seconds,
  max(l.silent_seconds) AS silent_seconds,
  max(l.epoch) AS epoch,
  min(l.seq) AS seq_min,
  max(l.seq) AS seq_max
FROM coord.v_projection_lag AS l
GROUP BY l.stream
ORDER BY l.stream
