-- Rows at the places of said_metric_sample that say something else, or stand there twice. Looked for a minute around.
DELETE FROM coord.metric_sample AS e
USING (
  SELECT s.epoch, s.seq, s.idx
  FROM said_metric_sample AS s
  JOIN coord.metric_sample AS o ON (o.epoch, o.seq, o.idx) = (s.epoch, s.seq, s.idx)
    AND o.stored_at >= (SELECT min(stored_at) FROM said_metric_sample) - INTERVAL '1 minute'
    AND o.stored_at <= (SELECT max(stored_at) FROM said_metric_sample) + INTERVAL '1 minute'
  GROUP BY 1, 2, 3
  HAVING count(*) > 1 OR bool_or(
    (
      o.stored_at, o.occurred_at, o.value, o.seq, o.epoch, o.idx, o.partition, o.tenant, o.agent,
      o.series, o.data
    ) IS DISTINCT FROM (
      s.stored_at, s.occurred_at, s.value, s.seq, s.epoch, s.idx, s.partition, s.tenant, s.agent,
      s.series, s.data
    )
  )
) AS w
WHERE (e.epoch, e.seq, e.idx) = (w.epoch, w.seq, w.idx)
  AND e.stored_at >= (SELECT min(stored_at) FROM said_metric_sample) - INTERVAL '1 minute'
  AND e.stored_at <= (SELECT max(stored_at) FROM said_metric_sample) + INTERVAL '1 minute'
RETURNING e.epoch, e.seq, e.idx
