-- Drop a chunk that is verified in the archive, if it has the same rows; $1 table, $2 from, $3 until before.
SELECT dropped, archived_rows, archived_sum, found_rows, found_sum FROM coord.archive_drop($1, $2, $3)
