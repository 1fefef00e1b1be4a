-- A table beside its twin that was rebuilt (coord projection rebuild): rows, a hash over all of them (64 bits a row,
-- summed, so that their order is nothing to it), and where they differ.  Rows are the same by the primary key of the live
-- one, which has the column tenant.

CREATE OR REPLACE FUNCTION coord.beside(
  live_table regclass, rebuilt_table regclass,
  OUT live bigint, OUT rebuilt bigint, OUT live_sum numeric, OUT rebuilt_sum numeric,
  OUT only_live bigint, OUT only_rebuilt bigint, OUT differ bigint
)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  key text;
BEGIN
  SELECT string_agg(quote_ident(a.attname), ', ') INTO key
  FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
  WHERE i.indrelid = live_table AND i.indisprimary;
  EXECUTE format(
    'SELECT count(l.tenant), count(r.tenant),
       coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0),
       coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0),
       count(*) FILTER (WHERE r.tenant IS NULL), count(*) FILTER (WHERE l.tenant IS NULL),
       count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r)
     FROM %s AS l FULL JOIN %s AS r USING (%s)', live_table, rebuilt_table, key)
  INTO live, rebuilt, live_sum, rebuilt_sum, only_live, only_rebuilt, differ;
END
$$;
COMMENT ON FUNCTION coord.beside(regclass, regclass) IS
  'A table beside its twin: rows of each, sums of their hashes, rows that only one has, and rows that are not the same.';
