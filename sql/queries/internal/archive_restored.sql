-- A piece's rows are in the table again; $1 which, $2 the attempt, $3 until when at least.
UPDATE coord.archive SET state = 'restored', restored_until = $3, changed_at = now()
WHERE piece = $1 AND attempt = $2 AND state = 'dropped'
RETURNING piece
