-- The role through which analysts read: the views and nothing else.
--
-- It cannot log in.  Give it to people:  GRANT coord_reader TO ada;
-- PostgreSQL applies a role's settings only to whoever logs in *as* that role, members do not
-- inherit them.  So say for each login what is said here for coord_reader:
--   ALTER ROLE ada IN DATABASE … SET statement_timeout = '30s';
--   ALTER ROLE ada IN DATABASE … SET default_transaction_read_only = on;
-- (or ALTER ROLE coord_reader LOGIN PASSWORD '…' and let them share it).
-- The settings are a guard against accidents; what keeps readers from writing is that the
-- role has no right to.
--
-- Roles belong to the whole cluster and several databases may be migrated at once, hence the
-- handlers.  Whoever migrates may lack CREATEROLE: that is said as a warning, not an error.

DO $$
DECLARE
  setting text;
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
  GRANT SELECT ON coord.v_event, coord.v_agent_status, coord.v_handoff, coord.v_metric_sample, coord.v_projection_lag,
    coord.v_task, coord.v_workflow, coord.v_handoff_state, coord.v_signal, coord.v_lock, coord.v_waiting, coord.v_placement,
    coord.v_agent, coord.v_archive TO coord_reader;
  REVOKE ALL ON coord.migration, coord.event, coord.metric_sample, coord.agent, coord.dead_letter, coord.checkpoint,
    coord.audit_anchor, coord.task, coord.workflow, coord.handoff, coord.signal, coord.lock, coord.flag, coord.agent_registry,
    coord.archive, coord.archive_file, coord.archive_store
    FROM coord_reader;
  REVOKE EXECUTE ON FUNCTION coord.maintain(interval, integer) FROM PUBLIC;
END
$$;
