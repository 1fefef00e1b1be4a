-- Where the projector goes on; $1 stream, $2 partition or null for all of the stream.
SELECT stream, partition, stream_created, epoch, seq, stored_at, digest, messages
FROM coord.checkpoint
WHERE stream = $1::text AND ($2::smallint IS NULL OR partition = $2)
ORDER BY partition
