-- Up to when every partition of the stream $1 is in the tables ($2 partitions), by the broker's clock; null: unknown.
SELECT CASE WHEN count(stored_at) = $2::integer THEN min(stored_at) END FROM coord.checkpoint WHERE stream = $1
