-- How much room each table takes: one row a table, chunks and indexes counted with it.

DO $$
DECLARE
  -- With TimescaleDB a hypertable's bytes are those of its chunks, compressed ones too; both are called by name, once
  -- a table.  The estimate of rows is the planner's, on compressed chunks one from their batches.
  hyper CONSTANT text := CASE
    WHEN EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
      THEN 'CASE WHEN h.hypertable_name IS NOT NULL THEN hypertable_size(c.oid::regclass) END'
    ELSE 'NULL::bigint'
  END;
  listed CONSTANT text := CASE
    WHEN EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
      THEN 'LEFT JOIN timescaledb_information.hypertables AS h
              ON h.hypertable_schema = n.nspname AND h.hypertable_name = c.relname'
    ELSE ''
  END;
  rows_of CONSTANT text := CASE
    WHEN EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
      THEN 'CASE WHEN h.hypertable_name IS NOT NULL THEN approximate_row_count(c.oid::regclass) END'
    ELSE 'NULL::bigint'
  END;
BEGIN
  EXECUTE format(
    'CREATE OR REPLACE VIEW coord.v_storage AS
     SELECT
       c.relname::text AS relation,
       coalesce(%s, pg_total_relation_size(c.oid)) AS bytes,
       coalesce(%s, greatest(c.reltuples, 0)::bigint) AS rows_about
     FROM pg_class AS c
     INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
     %s
     WHERE n.nspname = ''coord'' AND c.relkind IN (''r'', ''p'')',
    hyper, rows_of, listed
  );
END
$$;

COMMENT ON VIEW coord.v_storage IS 'How much room the tables take: one row a table.';
COMMENT ON COLUMN coord.v_storage.relation IS 'The table.';
COMMENT ON COLUMN coord.v_storage.bytes IS 'With its indexes, and all its chunks.';
COMMENT ON COLUMN coord.v_storage.rows_about IS 'About how many rows, as the database last counted (ANALYZE).';
