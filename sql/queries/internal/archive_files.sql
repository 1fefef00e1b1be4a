-- The files of a piece; $1 which.
SELECT number, path, tenant, day, kind, epoch, seq_first, seq_last, row_count AS rows, byte_count AS bytes, sha256, content
FROM coord.archive_file
WHERE piece = $1
ORDER BY number
