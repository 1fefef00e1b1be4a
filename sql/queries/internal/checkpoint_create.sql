-- A partition's first checkpoint; whoever comes second changes nothing. $1 stream, $2 partition, $3 stream_created, $4 seq.
INSERT INTO coord.checkpoint (stream, partition, stream_created, epoch, seq)
VALUES ($1, $2, $3, 1, $4)
ON CONFLICT (stream, partition) DO NOTHING
