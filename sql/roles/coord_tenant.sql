-- What whoever may read one fleet only reads: the views of schema coord again, each with that fleet's rows.
--
-- Which fleet follows from the login (coord.reader, written by `coord db role set ada --tenant acme`),
-- not from a setting, which anybody can set.  A login that is not in the table reads nothing.
--
-- Not row-level security: PostgreSQL's policies are refused by TimescaleDB on tables with a
-- columnstore, and chunks would need them too.  The predicate is one equality with the answer of
-- a subquery that is asked once a statement, so an index on (…, tenant, …) takes it like a constant; security_barrier
-- keeps functions of the reader's own from seeing rows before it (docs/adr/0099).

CREATE SCHEMA IF NOT EXISTS coord_tenant;
COMMENT ON SCHEMA coord_tenant IS
  'The views of schema coord, each with the rows of the one fleet that the login may read.';

DO $$
DECLARE
  shown   record;
  comment record;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'coord_tenant_reader') THEN
    BEGIN
      CREATE ROLE coord_tenant_reader NOLOGIN;
    EXCEPTION
      WHEN duplicate_object OR unique_violation THEN
        NULL; -- another database's migration was faster
      WHEN insufficient_privilege THEN
        RAISE WARNING 'role coord_tenant_reader is missing and % may not create it: run CREATE ROLE coord_tenant_reader NOLOGIN as a superuser, then migrate again',
          current_user;
        RETURN;
    END;
  END IF;

  -- Of schema coord only the functions that compute: it has no right to a table or view there.
  GRANT USAGE ON SCHEMA coord, coord_tenant TO coord_tenant_reader;

  FOR shown IN
    SELECT c.oid, c.relname
    FROM pg_class AS c
    INNER JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant'
    WHERE c.relnamespace = 'coord'::regnamespace AND c.relkind = 'v' AND c.relname LIKE 'v\_%'
    ORDER BY c.relname
  LOOP
    BEGIN
      EXECUTE format(
        'CREATE OR REPLACE VIEW coord_tenant.%1$I WITH (security_barrier) AS
           SELECT v.* FROM coord.%1$I AS v
           WHERE v.tenant = (SELECT r.tenant FROM coord.reader AS r WHERE r.login = CURRENT_USER)',
        shown.relname
      );
    EXCEPTION WHEN invalid_table_definition THEN -- a column went away, or became another
      EXECUTE format('DROP VIEW coord_tenant.%I', shown.relname);
      EXECUTE format(
        'CREATE VIEW coord_tenant.%1$I WITH (security_barrier) AS
           SELECT v.* FROM coord.%1$I AS v
           WHERE v.tenant = (SELECT r.tenant FROM coord.reader AS r WHERE r.login = CURRENT_USER)',
        shown.relname
      );
    END;
    EXECUTE format('GRANT SELECT ON coord_tenant.%I TO coord_tenant_reader', shown.relname);
    FOR comment IN
      SELECT a.attname, d.description
      FROM pg_description AS d
      LEFT JOIN pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
      INNER JOIN pg_class AS c ON c.relname = shown.relname AND c.relnamespace = 'coord_tenant'::regnamespace
      LEFT JOIN pg_description AS o ON o.objoid = c.oid AND o.objsubid = d.objsubid AND o.classoid = d.classoid
      WHERE d.objoid = shown.oid AND d.classoid = 'pg_class'::regclass AND o.description IS DISTINCT FROM d.description
    LOOP
      EXECUTE CASE
        WHEN comment.attname IS NULL THEN format('COMMENT ON VIEW coord_tenant.%I IS %L', shown.relname, comment.description)
        ELSE format('COMMENT ON COLUMN coord_tenant.%I.%I IS %L', shown.relname, comment.attname, comment.description)
      END;
    END LOOP;
  END LOOP;

END
$$;
