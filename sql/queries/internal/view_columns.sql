-- The columns of the views that analysts read, in order: what sql/contract/ promises.
SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) AS line
FROM pg_class AS c
INNER JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = to_regnamespace('coord') AND c.relkind = 'v' AND c.relname LIKE 'v\_%'
ORDER BY c.relname COLLATE "C", a.attnum
