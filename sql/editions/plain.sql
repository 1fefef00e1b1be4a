-- plain (development only): ordinary tables, and what TimescaleDB would have brought.
--
-- BRIN on stored_at: rows arrive in that order, so a few bytes for every 128 pages find an hour.

CREATE INDEX IF NOT EXISTS event_time_brin ON coord.event USING brin (stored_at);
CREATE INDEX IF NOT EXISTS metric_sample_time_brin ON coord.metric_sample USING brin (stored_at);

-- TimescaleDB's time_bucket for widths that have a fixed length (no months), with its origin, a
-- Monday.  In schema coord, where a later CREATE EXTENSION does not collide with it; coord's
-- own sessions have coord on their search_path, others say SET search_path = coord, public.
CREATE OR REPLACE FUNCTION coord.time_bucket(bucket_width interval, ts timestamptz)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN date_bin(bucket_width, ts, TIMESTAMPTZ '2000-01-03 00:00:00+00');
COMMENT ON FUNCTION coord.time_bucket(interval, timestamptz) IS
  'Stands in for TimescaleDB''s time_bucket in the plain edition.';
