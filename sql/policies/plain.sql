-- plain: retention is coord's own work, one bounded step a call, by deleting rows.
--
-- By ctid, so that a step reads and deletes one batch and nothing twice; the BRIN finds them.

CREATE OR REPLACE FUNCTION coord.maintain(retain interval, batch integer DEFAULT 10000)
RETURNS TABLE (relation text, unit text, removed bigint, more boolean)
LANGUAGE plpgsql
AS $$
DECLARE
  -- Old is what both clocks call old, the database's and the broker's as checkpoints have seen it: one of them that
  -- jumps ahead deletes nothing.
  cutoff CONSTANT timestamptz := least(now(), (SELECT max(c.stored_at) FROM coord.checkpoint AS c)) - retain;
BEGIN
  IF retain <= INTERVAL '0' THEN
    RAISE EXCEPTION 'coord.maintain: retain must be positive, not %', retain USING ERRCODE = 'invalid_parameter_value';
  END IF;
  unit := 'rows';
  FOREACH relation IN ARRAY ARRAY['event', 'metric_sample', 'outcome'] LOOP
    CONTINUE WHEN coord.is_archived(relation);  -- nothing is deleted there that is not verified
    EXECUTE format(
      'DELETE FROM coord.%1$I WHERE ctid = ANY (ARRAY(SELECT ctid FROM coord.%1$I WHERE stored_at < $1 LIMIT $2))',
      relation
    ) USING cutoff, batch;
    GET DIAGNOSTICS removed = ROW_COUNT;
    more := removed >= batch;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION coord.maintain(interval, integer) IS
  'One bounded step of retention: deletes up to batch rows of each table stored before now() - retain, by the slower of both clocks. Call while more is true.';

-- When the oldest rows of a table are from; null: it has none.
CREATE OR REPLACE FUNCTION coord.oldest(relation text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  found timestamptz;
BEGIN
  EXECUTE format('SELECT min(stored_at) FROM coord.%I', relation) INTO found;
  RETURN found;
END
$$;
COMMENT ON FUNCTION coord.oldest(text) IS
  'When the oldest rows of event, metric_sample or outcome can be from, at the earliest; null: there are none.';

-- What a table takes, with its indexes.
CREATE OR REPLACE FUNCTION coord.size_of(relation text)
RETURNS bigint
LANGUAGE sql STABLE
AS $$
  SELECT pg_total_relation_size(to_regclass(format('coord.%I', relation)))
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
