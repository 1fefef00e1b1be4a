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
