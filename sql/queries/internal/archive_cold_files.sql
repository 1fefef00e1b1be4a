-- Files of the archive to be read, in the order of the log: $1 table, $2 tenant, $3 kinds, $4 stored from, $5 until
-- before (null: all), $6 also those whose rows are in the table, too.
SELECT f.number, f.path, f.tenant, f.day, f.kind, f.epoch, f.seq_first, f.seq_last, f.row_count AS rows,
  f.byte_count AS bytes, f.sha256, f.content, a.piece, a.range_start AS start, a.range_end AS "end"
FROM coord.archive_file AS f
INNER JOIN coord.archive AS a ON a.piece = f.piece
WHERE a.relation = $1 AND (a.state = 'dropped' OR ($6 AND a.state IN ('verified', 'restored')))
  AND ($2::text IS NULL OR f.tenant = $2) AND ($3::text[] IS NULL OR f.kind = ANY ($3))
  AND ($4::timestamptz IS NULL OR a.range_end > $4) AND ($5::timestamptz IS NULL OR a.range_start < $5)
ORDER BY f.epoch, f.seq_first, a.piece, f.number
