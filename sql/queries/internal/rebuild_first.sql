-- When the oldest fact of the copy was stored, that of the ten minutes from $1 on.
SELECT min(e.stored_at) FROM coord.event AS e WHERE e.stored_at >= $1 AND e.stored_at < $1 + INTERVAL '10 minutes'
