-- Exactly once rests on this: moves the checkpoint only from where the writer believes it to be.
-- $1 stream, $2 partition, $3 epoch, $4 seq before, $5 seq after, $6 stored_at, $7 pending.
UPDATE coord.checkpoint
SET seq = $5, stored_at = $6, pending = $7, updated_at = clock_timestamp()
WHERE stream = $1 AND partition = $2 AND epoch = $3 AND seq = $4
RETURNING seq
