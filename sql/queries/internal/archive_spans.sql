-- The spans of a table that are archived as one, oldest first; $1 which table.
SELECT s.range_start AS start, s.range_end AS "end" FROM coord.archive_spans($1) AS s ORDER BY s.range_start
