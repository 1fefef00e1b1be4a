-- community: the columnstore is switched on.  What is compressed when is a policy.
--
-- segmentby tenant only: rows of one segment are compressed a thousand at a time, and a segment
-- a batch does not fill compresses badly.  By agent, a fleet of 1,000 agents at 100 facts/s would
-- put 2,160 rows of an agent into a chunk, a fleet of 10,000 only 216; a COPY of 10,000 rows
-- with direct compression would make one batch for each of the agents in it.
-- Facts by agent, then by time: what one agent states is alike, its ids differ in their last characters, and all of it
-- takes a fifth less room than by time (docs/adr/0101).  Each batch knows its least and greatest agent and time,
-- so one agent's facts and a stretch of time are both found; a key by the sparse (bloom) index, which
-- TimescaleDB derives from the B-tree.  Of samples and outcomes, the time first: what analysts ask is the last hour.
--
-- Only said when it differs: the statement takes an exclusive lock.  Chunks that are compressed stay as they are.

DO $$
DECLARE
  found record;
BEGIN
  FOR found IN
    SELECT * FROM (VALUES
      ('coord.event'::regclass, 'agent, stored_at DESC, seq DESC, idx DESC'),
      ('coord.metric_sample'::regclass, 'stored_at DESC, seq DESC, idx DESC'),
      ('coord.outcome'::regclass, 'stored_at DESC')
    ) AS v (relation, ordered)
  LOOP
    IF NOT EXISTS (
      SELECT FROM timescaledb_information.hypertable_compression_settings AS s
      WHERE s.hypertable = found.relation AND s.segmentby = 'tenant'
        AND split_part(split_part(s.orderby, ',', 1), ' ', 1) = split_part(split_part(found.ordered, ',', 1), ' ', 1)
    ) THEN
      EXECUTE format(
        'ALTER TABLE %s SET (timescaledb.enable_columnstore,
           timescaledb.segmentby = ''tenant'', timescaledb.orderby = %L)',
        found.relation, found.ordered
      );
    END IF;
  END LOOP;
END
$$;
