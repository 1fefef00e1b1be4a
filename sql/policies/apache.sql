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
