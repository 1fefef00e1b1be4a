-- Whether these tables have everything of the log $1 (when it was created) up to $2; $3: how many partitions it has.
SELECT count(*) = $3::bigint AND coalesce(min(c.seq) >= $2::bigint, false)
FROM coord.checkpoint AS c
WHERE c.stream = 'EVENTS' AND c.stream_created = $1::timestamptz
