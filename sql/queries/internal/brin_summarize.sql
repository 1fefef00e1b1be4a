-- Have the newest rows of these tables in their BRIN, which autovacuum would bring there within minutes: $1 tables (their
-- two newest chunks, where they have any). Until then every question about the last minutes reads all of them.
SELECT coalesce(sum(brin_summarize_new_values(i.indexrelid::regclass)), 0)::bigint
FROM unnest($1::text[]) AS t (name)
CROSS JOIN LATERAL (
  SELECT c.oid
  FROM (
    SELECT to_regclass(t.name)::oid AS oid
    UNION ALL
    SELECT h.inhrelid FROM pg_inherits AS h WHERE h.inhparent = to_regclass(t.name)
  ) AS c
  ORDER BY c.oid DESC
  LIMIT 2
) AS newest
INNER JOIN pg_index AS i ON i.indrelid = newest.oid
INNER JOIN pg_class AS x ON x.oid = i.indexrelid
INNER JOIN pg_am AS a ON a.oid = x.relam
WHERE a.amname = 'brin'
