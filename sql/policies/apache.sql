-- apache: retention is coord's own work, one bounded step a call, by dropping whole chunks.
--
-- Oldest first, at most eight chunks of each table (two days): dropping takes a lock on the
-- hypertable, and a step must end before it is felt.  `batch` is for the plain edition.  What goes to the archive is
-- left to it: nothing is dropped there that is not verified.

CREATE OR REPLACE FUNCTION coord.maintain(retain interval, batch integer DEFAULT 10000)
RETURNS TABLE (relation text, unit text, removed bigint, more boolean)
LANGUAGE plpgsql
AS $$
DECLARE
  step_chunks CONSTANT integer := 8;
  -- Old is what both clocks call old, the database's and the broker's as checkpoints have seen it: one of them that
  -- jumps ahead drops nothing.
  cutoff      CONSTANT timestamptz := least(now(), (SELECT max(c.stored_at) FROM coord.checkpoint AS c)) - retain;
  hypertable  text;
  expired     timestamptz[];
BEGIN
  IF retain <= INTERVAL '0' THEN
    RAISE EXCEPTION 'coord.maintain: retain must be positive, not %', retain USING ERRCODE = 'invalid_parameter_value';
  END IF;
  FOREACH hypertable IN ARRAY ARRAY['event', 'metric_sample', 'outcome'] LOOP
    expired := NULL;
    SELECT array_agg(c.range_end ORDER BY c.range_end) INTO expired
    FROM (
      SELECT i.range_end
      FROM timescaledb_information.chunks AS i
      WHERE i.hypertable_schema = 'coord' AND i.hypertable_name = hypertable AND i.range_end <= cutoff
        AND NOT coord.is_archived(hypertable)
      ORDER BY i.range_end
      LIMIT step_chunks + 1
    ) AS c;
    relation := hypertable;
    unit := 'chunks';
    removed := 0;
    more := coalesce(cardinality(expired), 0) > step_chunks;
    IF expired IS NOT NULL THEN
      SELECT count(*) INTO removed
      FROM drop_chunks(
        format('coord.%I', hypertable)::regclass,
        older_than => expired[least(cardinality(expired), step_chunks)]
      );
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION coord.maintain(interval, integer) IS
  'One bounded step of retention: drops the oldest chunks that lie wholly before now() - retain, by the slower of both clocks. Call while more is true.';

-- When the oldest rows of a table can be from, at the earliest; null: it has none.
CREATE OR REPLACE FUNCTION coord.oldest(relation text)
RETURNS timestamptz
LANGUAGE sql STABLE
AS $$
  SELECT min(range_start) FROM timescaledb_information.chunks WHERE hypertable_schema = 'coord' AND hypertable_name = relation
$$;
COMMENT ON FUNCTION coord.oldest(text) IS
  'When the oldest rows of event, metric_sample or outcome can be from, at the earliest; null: there are none.';

-- What a table takes, with its indexes and chunks.
CREATE OR REPLACE FUNCTION coord.size_of(relation text)
RETURNS bigint
LANGUAGE sql STABLE
AS $$
  SELECT coalesce(
    (SELECT hypertable_size(format('coord.%I', h.hypertable_name)::regclass)
     FROM timescaledb_information.hypertables AS h WHERE h.hypertable_schema = 'coord' AND h.hypertable_name = relation),
    pg_total_relation_size(to_regclass(format('coord.%I', relation)))
  )
$$;
COMMENT ON FUNCTION coord.size_of(text) IS 'Bytes of a table of schema coord, with its indexes and chunks; null: there is none.';

-- The server has no jobs here: coord's maintenance does what they would.
CREATE OR REPLACE FUNCTION coord.server_jobs()
RETURNS TABLE (
  job text, relation text, every interval, next_run timestamptz, last_success timestamptz, state text,
  bytes_before bigint, bytes_after bigint, detail jsonb
)
LANGUAGE sql STABLE
AS $$
  SELECT NULL::text, NULL::text, NULL::interval, NULL::timestamptz, NULL::timestamptz, NULL::text, NULL::bigint, NULL::bigint,
    NULL::jsonb
  WHERE false
$$;
COMMENT ON FUNCTION coord.server_jobs() IS 'The server''s own jobs on tables of coord: none in this edition.';

CREATE OR REPLACE FUNCTION coord.hold(held boolean)
RETURNS integer
LANGUAGE sql
AS $$ SELECT 0 $$;
COMMENT ON FUNCTION coord.hold(boolean) IS
  'Holds the server''s jobs that compress and drop, or lets them go on; how many that changed. None in this edition.';
