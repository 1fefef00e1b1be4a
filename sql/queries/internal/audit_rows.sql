-- What the tables have of sequences $2 to $3 of stream $1, stored between $4 and $5: rows and dead letters by sequence.
SELECT r.seq, count(*) AS rows, count(DISTINCT r.idx) AS entries, max(r.idx) + 1 AS upto
FROM (
  SELECT e.seq, e.idx, e.epoch FROM coord.event AS e
  WHERE $1::text = 'EVENTS' AND e.seq BETWEEN $2::bigint AND $3::bigint AND e.stored_at BETWEEN $4 AND $5
  UNION ALL
  SELECT s.seq, s.idx, s.epoch FROM coord.metric_sample AS s
  WHERE $1::text = 'TELEMETRY' AND s.seq BETWEEN $2::bigint AND $3::bigint AND s.stored_at BETWEEN $4 AND $5
  UNION ALL
  SELECT d.seq, d.idx, d.epoch FROM coord.dead_letter AS d
  WHERE d.stream = $1::text AND d.seq BETWEEN $2::bigint AND $3::bigint
) AS r
WHERE r.epoch IN (SELECT epoch FROM coord.checkpoint WHERE stream = $1::text)
GROUP BY r.seq
