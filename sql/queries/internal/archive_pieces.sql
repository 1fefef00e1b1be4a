-- The archive's pieces of a table that were not purged, oldest first; $1 which (null: all).
SELECT piece, relation, range_start AS start, range_end AS "end", state, attempt, row_count AS rows,
  byte_count AS bytes, verified_at, restored_until
FROM coord.archive
WHERE state <> 'purged' AND ($1::text IS NULL OR relation = $1)
ORDER BY range_start, piece
