-- Up to where a stream's strays are parked: letters whose subject is still as it was published.
-- $1 stream, $2 epoch, $3 the prefix of published subjects.
SELECT coalesce(max(d.seq), 0)
FROM coord.dead_letter AS d
WHERE d.stream = $1 AND d.epoch = $2 AND starts_with(d.subject, $3)
