-- community: the server's own jobs compress what is warm, drop what is old and keep the rollups.
--
-- The ages come from the settings, set by the migration runner: coord.hot (rows stay in the row store so long),
-- coord.retain (rows are dropped then; empty: never), coord.minutes and coord.hours (rollups of that width are dropped
-- then).  A policy that already says the same is left alone: replacing it would forget its statistics.

DO $$
DECLARE
  hot      CONSTANT interval := current_setting('coord.hot')::interval;
  retain   CONSTANT interval := nullif(current_setting('coord.retain'), '')::interval;
  relation text;
  kept     interval;
  present  interval;
BEGIN
  -- A refresh counts the last days anew where rows have changed; it must find them.
  IF retain <= greatest(hot, INTERVAL '4 days') THEN
    RAISE EXCEPTION 'ages.retain_days must exceed 4 and hot_days in this edition: continuous aggregates count so many days again'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  FOREACH relation IN ARRAY ARRAY['event', 'metric_sample', 'outcome'] LOOP
    -- The columnstore policy.
    SELECT (j.config ->> 'compress_after')::interval INTO present
    FROM timescaledb_information.jobs AS j
    WHERE j.proc_name IN ('policy_compression', 'policy_columnstore')
      AND j.hypertable_schema = 'coord' AND j.hypertable_name = relation;
    IF present IS DISTINCT FROM hot THEN
      IF present IS NOT NULL THEN
        CALL remove_columnstore_policy(format('coord.%I', relation)::regclass);
      END IF;
      CALL add_columnstore_policy(format('coord.%I', relation)::regclass, after => hot);
    END IF;

    -- The retention policy.  What goes to the archive is dropped by it alone, verified.
    kept := CASE WHEN NOT coord.is_archived(relation) THEN retain END;
    SELECT (j.config ->> 'drop_after')::interval INTO present
    FROM timescaledb_information.jobs AS j
    WHERE j.proc_name = 'policy_retention' AND j.hypertable_schema = 'coord' AND j.hypertable_name = relation;
    IF present IS DISTINCT FROM kept THEN
      IF present IS NOT NULL THEN
        PERFORM remove_retention_policy(format('coord.%I', relation)::regclass);
      END IF;
      IF kept IS NOT NULL THEN
        PERFORM add_retention_policy(format('coord.%I', relation)::regclass, drop_after => kept);
      END IF;
    END IF;
  END LOOP;
END
$$;

-- The continuous aggregates: minutes every minute, hours every half hour, days every six.  What is newer than the last
-- whole bucket is counted as it is asked.  A refresh looks back as far as rows are hot: a projector that is behind
-- writes into times that were counted, and these are counted again.
DO $$
DECLARE
  hot     CONSTANT interval := current_setting('coord.hot')::interval;
  kept    interval;
  found   record;
  present interval;
BEGIN
  FOR found IN
    SELECT format('coord.%I', c.view_name)::regclass AS aggregate, c.view_name, w.width, w.every, greatest(hot, w.least) AS back, w.keep
    FROM timescaledb_information.continuous_aggregates AS c
    INNER JOIN (VALUES
      ('_1m', INTERVAL '1 minute', INTERVAL '1 minute', INTERVAL '1 hour', current_setting('coord.minutes', true)),
      ('_1h', INTERVAL '1 hour', INTERVAL '30 minutes', INTERVAL '1 day', current_setting('coord.hours', true)),
      ('_1d', INTERVAL '1 day', INTERVAL '6 hours', INTERVAL '4 days', NULL)
    ) AS w (suffix, width, every, least, keep) ON right(c.view_name, 3) = w.suffix
    WHERE c.view_schema = 'coord'
  LOOP
    SELECT (j.config ->> 'start_offset')::interval INTO present
    FROM timescaledb_information.continuous_aggregates AS c
    INNER JOIN timescaledb_information.jobs AS j
      ON j.proc_name = 'policy_refresh_continuous_aggregate'
      AND (j.hypertable_schema, j.hypertable_name) IN (
        (c.materialization_hypertable_schema, c.materialization_hypertable_name), (c.view_schema, c.view_name)
      )
    WHERE c.view_schema = 'coord' AND c.view_name = found.view_name;
    IF present IS DISTINCT FROM found.back THEN
      PERFORM remove_continuous_aggregate_policy(found.aggregate, if_exists => true) WHERE present IS NOT NULL;
      PERFORM add_continuous_aggregate_policy(
        found.aggregate, start_offset => found.back, end_offset => found.width, schedule_interval => found.every
      );
    END IF;

    kept := nullif(found.keep, '')::interval;
    SELECT (j.config ->> 'drop_after')::interval INTO present
    FROM timescaledb_information.continuous_aggregates AS c
    INNER JOIN timescaledb_information.jobs AS j
      ON j.proc_name = 'policy_retention'
      AND (j.hypertable_schema, j.hypertable_name) IN (
        (c.materialization_hypertable_schema, c.materialization_hypertable_name), (c.view_schema, c.view_name)
      )
    WHERE c.view_schema = 'coord' AND c.view_name = found.view_name;
    IF present IS DISTINCT FROM kept THEN
      IF present IS NOT NULL THEN
        PERFORM remove_retention_policy(found.aggregate);
      END IF;
      IF kept IS NOT NULL THEN
        PERFORM add_retention_policy(found.aggregate, drop_after => kept);
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

CREATE OR REPLACE FUNCTION coord.server_jobs()
RETURNS TABLE (
  job text, relation text, every interval, next_run timestamptz, last_success timestamptz, state text,
  bytes_before bigint, bytes_after bigint, detail jsonb
)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  found record;
BEGIN
  FOR found IN
    SELECT j.proc_name, j.schedule_interval, j.next_start, j.scheduled, j.config, s.last_successful_finish, s.last_run_status,
      coalesce(c.view_name, j.hypertable_name)::text AS name
    FROM timescaledb_information.jobs AS j
    LEFT JOIN timescaledb_information.job_stats AS s ON s.job_id = j.job_id
    LEFT JOIN timescaledb_information.continuous_aggregates AS c
      ON (j.hypertable_schema, j.hypertable_name) IN (
        (c.materialization_hypertable_schema, c.materialization_hypertable_name), (c.view_schema, c.view_name)
      )
    WHERE j.hypertable_schema = 'coord' OR c.view_schema = 'coord'
  LOOP
    job := CASE found.proc_name
      WHEN 'policy_compression' THEN 'compress' WHEN 'policy_columnstore' THEN 'compress'
      WHEN 'policy_retention' THEN 'retention' WHEN 'policy_refresh_continuous_aggregate' THEN 'rollup'
      ELSE found.proc_name END;
    relation := found.name;
    every := found.schedule_interval;
    next_run := found.next_start;
    last_success := nullif(found.last_successful_finish, '-infinity');
    state := CASE WHEN NOT found.scheduled THEN 'held' ELSE coalesce(lower(found.last_run_status), 'not run yet') END;
    detail := found.config - 'hypertable_id' - 'mat_hypertable_id';
    bytes_before := NULL;
    bytes_after := coord.size_of(found.name);
    IF job = 'compress' THEN
      SELECT h.before_compression_total_bytes, h.after_compression_total_bytes INTO bytes_before, bytes_after
      FROM hypertable_columnstore_stats(format('coord.%I', found.name)::regclass) AS h;
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION coord.server_jobs() IS
  'The server''s own jobs on tables of coord: next run, last success; of compression, bytes of what is compressed, before and after.';

CREATE OR REPLACE FUNCTION coord.hold(held boolean)
RETURNS integer
LANGUAGE sql
AS $$
  SELECT count(*)::integer FROM (
    SELECT alter_job(j.job_id, scheduled => NOT held)
    FROM timescaledb_information.jobs AS j
    WHERE j.hypertable_schema = 'coord' AND j.hypertable_name IN ('event', 'metric_sample', 'outcome')
      AND j.proc_name IN ('policy_compression', 'policy_columnstore', 'policy_retention') AND j.scheduled = held
  ) AS changed
$$;
COMMENT ON FUNCTION coord.hold(boolean) IS
  'Holds the server''s jobs that compress and drop, or lets them go on; how many that changed.';
