-- Whether a message is a row: no two streams have stored one in the same microsecond under the same sequence.
SELECT 1 FROM coord.event WHERE stored_at = $1 AND seq = $2 AND epoch = ANY ($3::integer[]) LIMIT 1
