-- One piece of the archive as it is now; $1 which.
SELECT piece, relation, range_start AS start, range_end AS "end", state, attempt, row_count AS rows,
  byte_count AS bytes, verified_at, restored_until
FROM coord.archive
WHERE piece = $1
