-- Where a time belongs in the histograms of v_wait_… and v_run_…: eight slots to a doubling.
--
-- Slot k, from 1 to 254, holds what is above 0.001 · 2^((k-1)/8) s, up to 0.001 · 2^(k/8) s; 0 all up to 1 ms,
-- 255 all beyond 42 days.  tests/support/slots.py says it in Python; a millionth of a slot is taken off, so that a time on
-- a border is in one slot whatever the machine's logarithm says of its last bit.
-- Never change it: histograms of before and after could not be added.

CREATE OR REPLACE FUNCTION coord.slot(seconds double precision)
RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN seconds <= 0.001 THEN 0
  WHEN seconds > 1e7 THEN 255
  ELSE least(255, ceil(8 * ln(seconds * 1000) / ln(2::double precision) - 1e-6))
END::smallint;
COMMENT ON FUNCTION coord.slot(double precision) IS
  'Slot of a histogram that a time in seconds belongs to: eight to a doubling, from 1 ms on; null for null.';

CREATE OR REPLACE FUNCTION coord.slot_seconds(slot smallint)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN slot <= 0 THEN 0.0005 ELSE 0.001 * power(2::double precision, (slot - 0.5) / 8) END;
COMMENT ON FUNCTION coord.slot_seconds(smallint) IS
  'The time a slot stands for, in seconds: its middle, at most 4.5 % from any time in it (slot 0: half a millisecond).';
