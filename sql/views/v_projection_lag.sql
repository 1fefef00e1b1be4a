-- How far the tables are behind the log: one row a partition.

CREATE OR REPLACE VIEW coord.v_projection_lag AS
SELECT
  c.stream,
  c.partition,
  c.epoch,
  c.seq,
  c.pending,
  CASE
    WHEN c.pending = 0 THEN 0
    ELSE greatest(extract(epoch FROM now() - c.stored_at), 0)
  END::double precision AS lag_seconds,
  greatest(extract(epoch FROM now() - c.updated_at), 0)::double precision AS silent_seconds,
  c.stored_at,
  c.updated_at
FROM coord.checkpoint AS c;

COMMENT ON VIEW coord.v_projection_lag IS
  'How far the tables are behind the log, as the projector last knew: one row a partition. See silent_seconds before believing the rest.';
COMMENT ON COLUMN coord.v_projection_lag.stream IS 'EVENTS or TELEMETRY.';
COMMENT ON COLUMN coord.v_projection_lag.partition IS '0 to 15.';
COMMENT ON COLUMN coord.v_projection_lag.epoch IS 'Incarnation of the stream.';
COMMENT ON COLUMN coord.v_projection_lag.seq IS 'Everything of the partition up to this stream sequence is in the tables.';
COMMENT ON COLUMN coord.v_projection_lag.pending IS 'Messages of the partition still waiting when the checkpoint was written.';
COMMENT ON COLUMN coord.v_projection_lag.lag_seconds IS
  'Age of the newest projected message while more are waiting, 0 when none are (database''s clock against the broker''s); null when unknown.';
COMMENT ON COLUMN coord.v_projection_lag.silent_seconds IS
  'Seconds since a projector wrote or confirmed this row, which it does every 5 s: much more means that nobody projects.';
COMMENT ON COLUMN coord.v_projection_lag.stored_at IS 'Broker''s time of the message at seq; null when unknown.';
COMMENT ON COLUMN coord.v_projection_lag.updated_at IS 'Database''s clock: when the row was written.';
