-- Up to where the tables go, as the first statement of a snapshot that something is read from.
SELECT stream, partition, epoch, seq
FROM coord.checkpoint
