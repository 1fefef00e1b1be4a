-- plain (development only): ordinary tables, and what TimescaleDB would have brought.
--
-- BRIN on stored_at: rows arrive in that order, so a few bytes for every 32 pages find a minute.

CREATE INDEX IF NOT EXISTS event_time_brin ON coord.event USING brin (stored_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX IF NOT EXISTS metric_sample_time_brin ON coord.metric_sample
  USING brin (stored_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX IF NOT EXISTS outcome_time_brin ON coord.outcome
  USING brin (stored_at) WITH (pages_per_range = 32, autosummarize = on);

-- TimescaleDB's time_bucket for widths that have a fixed length (no months), with its origin, a
-- Monday.  In schema coord, where a later CREATE EXTENSION does not collide with it; coord's
-- own sessions have coord on their search_path, others say SET search_path = coord, public.
CREATE OR REPLACE FUNCTION coord.time_bucket(bucket_width interval, ts timestamptz)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN date_bin(bucket_width, ts, TIMESTAMPTZ '2000-01-03 00:00:00+00');
COMMENT ON FUNCTION coord.time_bucket(interval, timestamptz) IS
  'Stands in for TimescaleDB''s time_bucket in the plain edition.';

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
