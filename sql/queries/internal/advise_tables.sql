-- How coord's tables are read; the chunks of a hypertable are added to it.
-- $1: chunks, as JSON {"schema.chunk": "hypertable"}.
SELECT
  t.relation, sum(t.rows)::bigint AS rows, sum(t.seq_scans)::bigint AS seq_scans, sum(t.seq_rows)::bigint AS seq_rows,
  sum(t.index_scans)::bigint AS index_scans
FROM (
  SELECT
    coalesce(c.value, s.relname::text) AS relation, s.n_live_tup AS rows, coalesce(s.seq_scan, 0) AS seq_scans,
    coalesce(s.seq_tup_read, 0) AS seq_rows, coalesce(s.idx_scan, 0) AS index_scans
  FROM pg_stat_all_tables AS s
  LEFT JOIN jsonb_each_text($1::jsonb) AS c ON c.key::regclass = s.relid
  WHERE s.schemaname = 'coord' OR c.key IS NOT NULL
) AS t
GROUP BY t.relation
ORDER BY t.relation
