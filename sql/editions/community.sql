-- community: the columnstore is switched on.  What is compressed when is a policy.
--
-- segmentby tenant only: rows of one segment are compressed a thousand at a time, and a segment
-- a batch does not fill compresses badly.  By agent, a fleet of 1,000 agents at 100 facts/s would
-- put 2,160 rows of an agent into a chunk, a fleet of 10,000 only 216; a COPY of 10,000 rows
-- with direct compression would make one batch for each of the agents in it.
-- orderby stored_at: what analysts ask is the last hour.  One agent or one key is found by the
-- sparse (bloom or min/max) indexes, which TimescaleDB derives from the two B-trees.
--
-- Only said when it differs: the statement takes an exclusive lock.

DO $$
DECLARE
  relation regclass;
  ordered  text;
BEGIN
  FOREACH relation IN ARRAY ARRAY['coord.event', 'coord.metric_sample', 'coord.outcome']::regclass[] LOOP
    ordered := CASE WHEN relation = 'coord.outcome'::regclass THEN 'stored_at DESC' ELSE 'stored_at DESC, seq DESC, idx DESC' END;
    IF NOT EXISTS (
      SELECT FROM timescaledb_information.hypertable_compression_settings AS s
      WHERE s.hypertable = relation AND s.segmentby = 'tenant' AND s.orderby LIKE 'stored_at%'
    ) THEN
      EXECUTE format(
        'ALTER TABLE %s SET (timescaledb.enable_columnstore,
           timescaledb.segmentby = ''tenant'', timescaledb.orderby = %L)',
        relation, ordered
      );
    END IF;
  END LOOP;
END
$$;
