-- community and apache: event and metric_sample become hypertables, partitioned by stored_at.
--
-- By the broker's clock, not the agent's: an agent whose clock is years off must not be able to
-- create a chunk in 2093.
--
-- Chunks of 6 hours.  Their two indexes take about 60 bytes a row: at 100 facts/s a chunk holds
-- 2.2 million rows and 130 MB of index, at 1,000 facts/s 1.3 GB, which still fits in the
-- memory of a database of that size (the rule is a quarter of it).  Days would not; hours would
-- make 720 chunks of 30 days, and each query that does not bound stored_at plans them all.
-- `SELECT set_chunk_time_interval('coord.event', …)` changes what comes; it is not undone here.
--
-- No B-tree on stored_at: chunks exclude by time already, and each costs COPY a quarter (373,000 rows/s without,
-- 236,000 with one, 177,000 with two).  But a BRIN: rows arrive in that order, so a few bytes for every 32 pages find
-- the last minutes of a chunk, which rollups and every view that counts up to now ask for.  It costs COPY 6 % of its
-- CPU (6.38 → 6.74 µs a row), a fact on its whole way through the projector 1.5 %.
--
-- migrate_data: a database that began as `plain` and was given the extension later keeps its rows.

-- What `plain` had instead.
DROP FUNCTION IF EXISTS coord.time_bucket(interval, timestamptz);

DO $$
DECLARE
  relation text;
BEGIN
  FOREACH relation IN ARRAY ARRAY['coord.event', 'coord.metric_sample', 'coord.outcome'] LOOP
    IF NOT EXISTS (
      SELECT FROM timescaledb_information.hypertables AS h
      WHERE format('%s.%s', h.hypertable_schema, h.hypertable_name) = relation
    ) THEN
      PERFORM create_hypertable(
        relation::regclass,
        by_range('stored_at', INTERVAL '6 hours'),
        create_default_indexes => false,
        migrate_data => true
      );
    END IF;
  END LOOP;
END
$$;

CREATE INDEX IF NOT EXISTS event_time_brin ON coord.event USING brin (stored_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX IF NOT EXISTS metric_sample_time_brin ON coord.metric_sample
  USING brin (stored_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX IF NOT EXISTS outcome_time_brin ON coord.outcome
  USING brin (stored_at) WITH (pages_per_range = 32, autosummarize = on);

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
    (SELECT hypertable_size(format('%I.%I', c.materialization_hypertable_schema, c.materialization_hypertable_name)::regclass)
     FROM timescaledb_information.continuous_aggregates AS c WHERE c.view_schema = 'coord' AND c.view_name = relation),
    pg_total_relation_size(to_regclass(format('coord.%I', relation)))
  )
$$;
COMMENT ON FUNCTION coord.size_of(text) IS 'Bytes of a table of schema coord, with its indexes and chunks; null: there is none.';
