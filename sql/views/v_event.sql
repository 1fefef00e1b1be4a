-- Every fact, for analysts: the columns of coord.event in reading order.

CREATE OR REPLACE VIEW coord.v_event AS
SELECT
  e.stored_at,
  e.tenant,
  e.agent,
  e.key,
  e.kind,
  e.id,
  e.event,
  e.detail,
  e.data,
  e.occurred_at,
  e.projected_at,
  e.event_id,
  e.type,
  e.schema,
  e.correlation_id,
  e.causation_id,
  e.traceparent,
  e.partition,
  e.epoch,
  e.seq,
  e.idx
FROM coord.event AS e;

COMMENT ON VIEW coord.v_event IS
  'Every fact of the log, once. Always bound stored_at: it decides how much is read. Facts of one key are ordered by (epoch, seq, idx).';
COMMENT ON COLUMN coord.v_event.stored_at IS 'Broker''s clock: when the log stored it. The time to filter and sort by.';
COMMENT ON COLUMN coord.v_event.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_event.agent IS 'Author of the fact; names that begin with _ are coord''s own deciders.';
COMMENT ON COLUMN coord.v_event.key IS 'Ordering key: everything about one piece of work carries one key (a workflow''s id, a lone task''s id, an agent''s name).';
COMMENT ON COLUMN coord.v_event.kind IS 'Kind of entity the fact is about: task, agent, handoff, file, …';
COMMENT ON COLUMN coord.v_event.id IS 'Which one; the entity is (tenant, key, kind, id).';
COMMENT ON COLUMN coord.v_event.event IS 'What happened, past tense: submitted, claimed, completed, …';
COMMENT ON COLUMN coord.v_event.detail IS 'Further tokens of the subject, joined by dots (a task''s capability and priority, a claim''s number); empty when there are none.';
COMMENT ON COLUMN coord.v_event.data IS 'What the author said, as JSON.';
COMMENT ON COLUMN coord.v_event.occurred_at IS 'Agent''s clock: when it says it happened; may be years off.';
COMMENT ON COLUMN coord.v_event.projected_at IS 'Database''s clock: when the statement that wrote the row began.';
COMMENT ON COLUMN coord.v_event.event_id IS 'The author''s id of the fact; in a frame, with /index.';
COMMENT ON COLUMN coord.v_event.type IS 'CloudEvents type; coord.{kind}.{event} unless the author named another.';
COMMENT ON COLUMN coord.v_event.schema IS 'Version of the payload''s schema.';
COMMENT ON COLUMN coord.v_event.correlation_id IS 'The whole conversation this belongs to.';
COMMENT ON COLUMN coord.v_event.causation_id IS 'event_id of the direct cause.';
COMMENT ON COLUMN coord.v_event.traceparent IS 'W3C trace context, as received.';
COMMENT ON COLUMN coord.v_event.partition IS 'Partition of the log: FNV-1a of key, mod 16.';
COMMENT ON COLUMN coord.v_event.epoch IS 'Incarnation of the log; (epoch, seq, idx) identifies the row.';
COMMENT ON COLUMN coord.v_event.seq IS 'Sequence of its message in the log.';
COMMENT ON COLUMN coord.v_event.idx IS 'Place in its frame; 0 for a single fact.';
