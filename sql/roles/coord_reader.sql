-- The role through which analysts read: the views and nothing else, of every fleet.
--
-- It cannot log in.  `coord db role set ada` makes a login that may read what it may, or grant
-- it by hand:  GRANT coord_reader TO ada;
-- PostgreSQL applies a role's settings only to whoever logs in *as* that role, members do not
-- inherit them.  So say for each login what is said here for coord_reader, as the command does:
--   ALTER ROLE ada IN DATABASE … SET statement_timeout = '30s';
--   ALTER ROLE ada IN DATABASE … SET default_transaction_read_only = on;
-- The settings are a guard against accidents; what keeps readers from writing is that the
-- role has no right to.
--
-- Roles belong to the whole cluster and several databases may be migrated at once, hence the
-- handlers.  Whoever migrates may lack CREATEROLE: that is said as a warning, not an error.

DO $$
DECLARE
  setting  text;
  relation regclass;
  called   regprocedure;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'coord_reader') THEN
    BEGIN
      CREATE ROLE coord_reader NOLOGIN;
    EXCEPTION
      WHEN duplicate_object OR unique_violation THEN
        NULL; -- another database's migration was faster
      WHEN insufficient_privilege THEN
        RAISE WARNING 'role coord_reader is missing and % may not create it: run CREATE ROLE coord_reader NOLOGIN as a superuser, then migrate again',
          current_user;
        RETURN;
    END;
  END IF;

  FOREACH setting IN ARRAY ARRAY[
    'statement_timeout = ''30s''',
    'default_transaction_read_only = on',
    'search_path = coord, public'
  ] LOOP
    BEGIN
      EXECUTE format('ALTER ROLE coord_reader IN DATABASE %I SET %s', current_database(), setting);
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE WARNING 'settings of role coord_reader were not changed: % may not alter it', current_user;
      EXIT;
    END;
  END LOOP;

  GRANT USAGE ON SCHEMA coord TO coord_reader;
  FOR relation IN
    SELECT c.oid FROM pg_class AS c WHERE c.relnamespace = 'coord'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v')
  LOOP
    IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = relation AND c.relkind = 'v' AND c.relname LIKE 'v\_%') THEN
      EXECUTE format('GRANT SELECT ON %s TO coord_reader', relation);
    ELSIF has_any_column_privilege('coord_reader', relation, 'SELECT, INSERT, UPDATE, REFERENCES') THEN
      EXECUTE format('REVOKE ALL ON %s FROM coord_reader', relation);
    END IF;
  END LOOP;

  -- What changes something is its owner's to call; what only computes (time_bucket, percentiles) is everybody's.
  FOR called IN
    SELECT p.oid
    FROM pg_proc AS p
    WHERE p.pronamespace = 'coord'::regnamespace AND (p.provolatile = 'v' OR p.prosecdef)
      AND has_function_privilege('coord_reader', p.oid, 'EXECUTE')
  LOOP
    EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC, coord_reader', called);
  END LOOP;
END
$$;
