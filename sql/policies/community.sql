-- community: the server's own jobs compress what is warm and drop what is old.
--
-- The ages come from the settings: coord.hot (rows stay in the row store so long) and
-- coord.retain (rows are dropped then; empty: never), set by the migration runner.  A policy
-- that already says the same is left alone: replacing it would forget its statistics.

DO $$
DECLARE
  hot      CONSTANT interval := current_setting('coord.hot')::interval;
  retain   CONSTANT interval := nullif(current_setting('coord.retain'), '')::interval;
  relation regclass;
  present  interval;
BEGIN
  FOREACH relation IN ARRAY ARRAY['coord.event', 'coord.metric_sample', 'coord.outcome']::regclass[] LOOP
    -- The columnstore policy.
    SELECT (j.config ->> 'compress_after')::interval INTO present
    FROM timescaledb_information.jobs AS j
    WHERE j.proc_name IN ('policy_compression', 'policy_columnstore')
      AND format('%I.%I', j.hypertable_schema, j.hypertable_name)::regclass = relation;
    IF present IS DISTINCT FROM hot THEN
      IF present IS NOT NULL THEN
        CALL remove_columnstore_policy(relation);
      END IF;
      CALL add_columnstore_policy(relation, after => hot);
    END IF;

    -- The retention policy.
    SELECT (j.config ->> 'drop_after')::interval INTO present
    FROM timescaledb_information.jobs AS j
    WHERE j.proc_name = 'policy_retention'
      AND format('%I.%I', j.hypertable_schema, j.hypertable_name)::regclass = relation;
    IF present IS DISTINCT FROM retain THEN
      IF present IS NOT NULL THEN
        PERFORM remove_retention_policy(relation);
      END IF;
      IF retain IS NOT NULL THEN
        PERFORM add_retention_policy(relation, drop_after => retain);
      END IF;
    END IF;
  END LOOP;
END
$$;

-- The same name on every edition; here the server's jobs do the work.
CREATE OR REPLACE FUNCTION coord.maintain(retain interval, batch integer DEFAULT 10000)
RETURNS TABLE (relation text, unit text, removed bigint, more boolean)
LANGUAGE sql STABLE
AS $$
  SELECT r.name, 'chunks', 0::bigint, false FROM (VALUES ('event'), ('metric_sample'), ('outcome')) AS r (name)
$$;
COMMENT ON FUNCTION coord.maintain(interval, integer) IS
  'One bounded step of retention. In the community edition the server''s policies do it: nothing is left to do here.';
