-- A piece is to be written anew, by the next attempt; $1 which, $2 the attempt, $3 its state.
UPDATE coord.archive
SET state = 'writing', changed_at = now(), attempt = attempt + 1, verified_at = NULL, restored_until = NULL
WHERE piece = $1 AND attempt = $2 AND state = $3
RETURNING attempt
