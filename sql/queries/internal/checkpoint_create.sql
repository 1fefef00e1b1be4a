-- A partition's first checkpoint and its chain's first anchor; whoever comes second changes nothing.
-- $1 stream, $2 partition, $3 stream_created, $4 seq.
WITH created AS (
  INSERT INTO coord.checkpoint (stream, partition, stream_created, epoch, seq)
  VALUES ($1, $2, $3, 1, $4)
  ON CONFLICT (stream, partition) DO NOTHING
  RETURNING stream, partition, epoch, seq, messages, digest
)
INSERT INTO coord.audit_anchor (stream, partition, epoch, seq, messages, digest)
SELECT stream, partition, epoch, seq, messages, digest FROM created
ON CONFLICT DO NOTHING
