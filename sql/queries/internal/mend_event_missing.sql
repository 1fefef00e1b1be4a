-- Rows of said_event at whose places there is neither a row nor a dead letter.
INSERT INTO coord.event (
    stored_at, occurred_at, seq, epoch, idx, schema, partition, tenant, agent, key, kind, id, event,
    detail, event_id, type, correlation_id, causation_id, traceparent, data
)
SELECT
    s.stored_at, s.occurred_at, s.seq, s.epoch, s.idx, s.schema, s.partition, s.tenant, s.agent,
    s.key, s.kind, s.id, s.event, s.detail, s.event_id, s.type, s.correlation_id, s.causation_id,
    s.traceparent, s.data
FROM said_event AS s
WHERE NOT EXISTS (
  SELECT FROM coord.event AS e
  WHERE (e.epoch, e.seq, e.idx) = (s.epoch, s.seq, s.idx)
    AND e.stored_at >= (SELECT min(stored_at) FROM said_event) - INTERVAL '1 minute'
    AND e.stored_at <= (SELECT max(stored_at) FROM said_event) + INTERVAL '1 minute'
) AND NOT EXISTS (
  SELECT FROM coord.dead_letter AS d
  WHERE d.stream = 'EVENTS' AND (d.epoch, d.seq, d.idx) = (s.epoch, s.seq, s.idx)
)
RETURNING epoch, seq, idx
