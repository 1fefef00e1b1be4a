-- What could not be believed and was parked, with its cause: one row a fact.

CREATE OR REPLACE VIEW coord.v_dead_letter AS
SELECT
  d.dead_at, d.stored_at, d.tenant, d.agent, d.stream, d.epoch, d.seq, d.idx, d.partition, d.subject, d.code, d.reason,
  d.headers, d.body_bytes, d.body
FROM coord.dead_letter AS d;

COMMENT ON VIEW coord.v_dead_letter IS 'Facts that were refused and parked, with the cause: one row a fact.';
COMMENT ON COLUMN coord.v_dead_letter.dead_at IS 'Database''s clock: when it was parked.';
COMMENT ON COLUMN coord.v_dead_letter.stored_at IS 'Broker''s clock: when its message was stored.';
COMMENT ON COLUMN coord.v_dead_letter.tenant IS 'Whose fleet, as far as its subject says; null: it does not.';
COMMENT ON COLUMN coord.v_dead_letter.agent IS 'Its author, as far as its subject says; null: it does not.';
COMMENT ON COLUMN coord.v_dead_letter.stream IS 'EVENTS or TELEMETRY.';
COMMENT ON COLUMN coord.v_dead_letter.epoch IS 'Incarnation of the stream; (stream, epoch, seq, idx) is the identity.';
COMMENT ON COLUMN coord.v_dead_letter.seq IS 'Sequence of its message in the stream.';
COMMENT ON COLUMN coord.v_dead_letter.idx IS 'Entry of the message''s frame; 0 for a whole message.';
COMMENT ON COLUMN coord.v_dead_letter.partition IS 'Partition of the log.';
COMMENT ON COLUMN coord.v_dead_letter.subject IS 'What it was published on.';
COMMENT ON COLUMN coord.v_dead_letter.code IS 'Code of the error: safe to group by.';
COMMENT ON COLUMN coord.v_dead_letter.reason IS 'The same in words.';
COMMENT ON COLUMN coord.v_dead_letter.headers IS 'The message''s headers, as they were.';
COMMENT ON COLUMN coord.v_dead_letter.body_bytes IS 'Size of the body as it came; more than length(body) when it was cut.';
COMMENT ON COLUMN coord.v_dead_letter.body IS 'The body, up to 64 KiB of it.';
