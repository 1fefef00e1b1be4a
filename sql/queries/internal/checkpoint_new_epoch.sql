-- The operator accepts the stream as it is now: one epoch above all that it had.
-- $1 stream, $2 stream_created, $3 seq, $4 partitions or null for all.
UPDATE coord.checkpoint
SET
  epoch = (SELECT max(c.epoch) + 1 FROM coord.checkpoint AS c WHERE c.stream = $1),
  stream_created = $2,
  seq = $3,
  stored_at = NULL,
  pending = 0,
  updated_at = clock_timestamp()
WHERE stream = $1 AND ($4::smallint[] IS NULL OR partition = ANY ($4))
RETURNING stream, partition, stream_created, epoch, seq, stored_at
