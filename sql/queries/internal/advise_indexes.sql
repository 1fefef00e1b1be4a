-- Indexes of coord's tables with their use; those of a hypertable's chunks are added to the hypertable's own.
-- $1: chunks, as JSON {"schema.chunk": "hypertable"}; their indexes are called after them.
WITH chunk AS (
  SELECT c.key::regclass AS oid, c.value AS relation, (parse_ident(c.key))[2] AS name
  FROM jsonb_each_text($1::jsonb) AS c
),

every AS (
  SELECT s.relname::text AS relation, s.indexrelname::text AS name, s.indexrelid AS oid, s.idx_scan, true AS is_own
  FROM pg_stat_all_indexes AS s
  WHERE s.schemaname = 'coord'
  UNION ALL
  SELECT c.relation, substr(s.indexrelname, length(c.name) + 2), s.indexrelid, s.idx_scan, false
  FROM pg_stat_all_indexes AS s
  INNER JOIN chunk AS c ON c.oid = s.relid
)

SELECT
  e.relation, e.name, sum(coalesce(e.idx_scan, 0))::bigint AS scans, sum(pg_relation_size(e.oid))::bigint AS bytes,
  bool_or(i.indisunique) AS is_unique, bool_and(i.indisvalid) AS valid,
  coalesce(max(pg_get_indexdef(e.oid)) FILTER (WHERE e.is_own), '') AS definition
FROM every AS e
INNER JOIN pg_index AS i ON i.indexrelid = e.oid
GROUP BY e.relation, e.name
ORDER BY e.relation, e.name
