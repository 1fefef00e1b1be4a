-- A percentile out of histograms: coord.percentile_of(slot, ends, 0.95), over any rows of v_wait_… or v_run_….
--
-- The state is what was counted in each of the 256 slots, and the wanted fraction behind them.  Counts add, so it
-- does not matter how many rows, buckets or capabilities are taken together: the answer is the one of all times in
-- one histogram, at most 4.5 % from the time that stands at that place (rank ceil(fraction · n)).

CREATE OR REPLACE FUNCTION coord.slots_add(
  state double precision[], slot smallint, ends bigint, fraction double precision
)
RETURNS double precision[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
  IF state IS NULL THEN
    IF fraction IS NULL OR NOT fraction BETWEEN 0 AND 1 THEN
      RAISE EXCEPTION 'coord.percentile_of: the fraction must be from 0 to 1, not %', fraction
        USING ERRCODE = 'invalid_parameter_value';
    END IF;
    state := array_fill(0::double precision, ARRAY[257]);
    state[257] := fraction;
  END IF;
  IF slot IS NOT NULL THEN
    state[slot + 1] := state[slot + 1] + coalesce(ends, 0);
  END IF;
  RETURN state;
END
$$;
COMMENT ON FUNCTION coord.slots_add(double precision[], smallint, bigint, double precision) IS
  'One step of coord.percentile_of.';

CREATE OR REPLACE FUNCTION coord.slots_percentile(state double precision[])
RETURNS double precision
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
  total double precision := 0;
  wanted double precision;
  reached double precision := 0;
BEGIN
  IF state IS NULL THEN
    RETURN NULL;
  END IF;
  FOR i IN 1..256 LOOP
    total := total + state[i];
  END LOOP;
  IF total = 0 THEN
    RETURN NULL;
  END IF;
  wanted := greatest(1, ceil(state[257] * total));
  FOR i IN 1..256 LOOP
    reached := reached + state[i];
    IF reached >= wanted THEN
      RETURN coord.slot_seconds((i - 1)::smallint);
    END IF;
  END LOOP;
  RETURN coord.slot_seconds(255::smallint);
END
$$;
COMMENT ON FUNCTION coord.slots_percentile(double precision[]) IS 'The last step of coord.percentile_of.';

CREATE OR REPLACE AGGREGATE coord.percentile_of(smallint, bigint, double precision) (
  sfunc = coord.slots_add,
  stype = double precision[],
  finalfunc = coord.slots_percentile,
  parallel = safe
);
COMMENT ON AGGREGATE coord.percentile_of(smallint, bigint, double precision) IS
  'Seconds below which the fraction of all times is, of rows of a histogram (slot, how many, fraction): at most 4.5 % off.';
