-- A piece's files are written, aside; $1 which, $2 the attempt, $3 rows, $4 sum of seq, $5 bytes.
UPDATE coord.archive
SET state = 'written', changed_at = now(), row_count = $3, seq_sum = $4, byte_count = $5
WHERE piece = $1 AND attempt = $2 AND state = 'writing'
RETURNING piece
