-- A piece has come further; $1 which, $2 the attempt, $3 from, $4 to. No row: somebody else has it.
UPDATE coord.archive
SET state = $4, changed_at = now(), verified_at = CASE WHEN $4 = 'verified' THEN now() ELSE verified_at END
WHERE piece = $1 AND attempt = $2 AND state = $3
RETURNING piece
