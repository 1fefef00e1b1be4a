-- How far the tables are behind the log, one row a stream.
SELECT
  c.stream,
  count(*)::integer AS partitions,
  sum(c.pending)::bigint AS pending,
  max(l.lag_seconds) AS lag_seconds,
  max(l.silent_seconds) AS silent_seconds,
  min(l.silent_seconds) AS silent_seconds_min,
  max(c.epoch) AS epoch,
  min(c.seq) AS seq_min,
  max(c.seq) AS seq_max,
  min(c.stream_created) AS stream_created_min,
  max(c.stream_created) AS stream_created_max
FROM coord.checkpoint AS c
INNER JOIN coord.v_projection_lag AS l ON l.stream = c.stream AND l.partition = c.partition
GROUP BY c.stream
ORDER BY c.stream
