-- Rows at the places of said_event that say something else, or stand there twice. Looked for a minute around.
DELETE FROM coord.event AS e
USING (
  SELECT s.epoch, s.seq, s.idx
  FROM said_event AS s
  JOIN coord.event AS o ON (o.epoch, o.seq, o.idx) = (s.epoch, s.seq, s.idx)
    AND o.stored_at >= (SELECT min(stored_at) FROM said_event) - INTERVAL '1 minute'
    AND o.stored_at <= (SELECT max(stored_at) FROM said_event) + INTERVAL '1 minute'
  GROUP BY 1, 2, 3
  HAVING count(*) > 1 OR bool_or(
    (
      o.stored_at, o.occurred_at, o.seq, o.epoch, o.idx, o.schema, o.partition, o.tenant, o.agent,
      o.key, o.kind, o.id, o.event, o.detail, o.event_id, o.type, o.correlation_id, o.causation_id,
      o.traceparent, o.data
    ) IS DISTINCT FROM (
      s.stored_at, s.occurred_at, s.seq, s.epoch, s.idx, s.schema, s.partition, s.tenant, s.agent,
      s.key, s.kind, s.id, s.event, s.detail, s.event_id, s.type, s.correlation_id, s.causation_id,
      s.traceparent, s.data
    )
  )
) AS w
WHERE (e.epoch, e.seq, e.idx) = (w.epoch, w.seq, w.idx)
  AND e.stored_at >= (SELECT min(stored_at) FROM said_event) - INTERVAL '1 minute'
  AND e.stored_at <= (SELECT max(stored_at) FROM said_event) + INTERVAL '1 minute'
RETURNING e.epoch, e.seq, e.idx
