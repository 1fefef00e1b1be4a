-- How much room each table takes, the largest first.
-- rows_about is the database's own estimate; bytes_per_row follows from it.
SELECT
  s.relation, s.bytes, s.rows_about, round(s.bytes::numeric / nullif(s.rows_about, 0), 1)::double precision AS bytes_per_row,
  round((100 * s.bytes / sum(s.bytes) OVER ())::numeric, 2)::double precision AS percent
FROM coord.v_storage AS s
ORDER BY s.bytes DESC, s.relation
