-- The same as checkpoint_advance_all for one partition and without an anchor, at a third of its price.
-- $1 stream, $2 partition, $3 epoch, $4 seq before, $5 seq after, $6 stored_at, $7 pending, $8 digest, $9 messages in the chain.
UPDATE coord.checkpoint
SET seq = $5, stored_at = $6, pending = $7, digest = $8, messages = $9, updated_at = clock_timestamp()
WHERE stream = $1 AND partition = $2 AND epoch = $3 AND seq = $4
RETURNING stream, partition
