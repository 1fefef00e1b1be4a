-- The operator accepts the stream as it is now: one epoch above all that it had, and a new chain.
-- $1 stream, $2 stream_created, $3 seq, $4 partitions or null for all, $5 of which the log is another one.
WITH opened AS (
  UPDATE coord.checkpoint
  SET
    epoch = (SELECT max(c.epoch) + 1 FROM coord.checkpoint AS c WHERE c.stream = $1),
    stream_created = $2,
    seq = $3,
    stored_at = NULL,
    pending = 0,
    digest = 0,
    messages = 0,
    updated_at = clock_timestamp()
  WHERE stream = $1 AND ($4::smallint[] IS NULL OR partition = ANY ($4))
  RETURNING stream, partition, stream_created, epoch, seq, stored_at, digest, messages
), anchored AS (
  INSERT INTO coord.audit_anchor (stream, partition, epoch, seq, messages, digest)
  SELECT stream, partition, epoch, seq, messages, digest FROM opened
  ON CONFLICT DO NOTHING
), known AS (
  INSERT INTO coord.epoch (stream, partition, epoch, stream_created, seq, replaced)
  SELECT stream, partition, epoch, stream_created, seq, partition = ANY ($5::smallint[]) FROM opened
)
SELECT stream, partition, stream_created, epoch, seq, stored_at, digest, messages FROM opened
