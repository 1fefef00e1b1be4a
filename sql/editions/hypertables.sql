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
-- No default index on stored_at: chunks exclude by time already, and each index costs COPY a
-- quarter (373,000 rows/s without, 236,000 with one, 177,000 with two).
--
-- migrate_data: a database that began as `plain` and was given the extension later keeps its rows.

-- What `plain` had instead.
DROP FUNCTION IF EXISTS coord.time_bucket(interval, timestamptz);
DROP INDEX IF EXISTS coord.event_time_brin;
DROP INDEX IF EXISTS coord.metric_sample_time_brin;

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
