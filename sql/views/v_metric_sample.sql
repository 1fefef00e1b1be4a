-- Telemetry, for analysts: the columns of coord.metric_sample in reading order.

CREATE OR REPLACE VIEW coord.v_metric_sample AS
SELECT
  s.stored_at,
  s.tenant,
  s.agent,
  s.series,
  s.value,
  s.data,
  s.occurred_at,
  s.projected_at,
  s.partition,
  s.epoch,
  s.seq,
  s.idx
FROM coord.metric_sample AS s;

COMMENT ON VIEW coord.v_metric_sample IS
  'Telemetry samples. The stream sheds the oldest when it is full, so unlike facts they may have gaps. Always bound stored_at.';
COMMENT ON COLUMN coord.v_metric_sample.stored_at IS 'Broker''s clock: when the sample''s message was stored. The time to filter and sort by.';
COMMENT ON COLUMN coord.v_metric_sample.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_metric_sample.agent IS 'Who measured.';
COMMENT ON COLUMN coord.v_metric_sample.series IS 'What was measured: cpu, llm.tokens, …';
COMMENT ON COLUMN coord.v_metric_sample.value IS 'The measured value.';
COMMENT ON COLUMN coord.v_metric_sample.data IS 'Labels and whatever else came with the value; usually null.';
COMMENT ON COLUMN coord.v_metric_sample.occurred_at IS 'Agent''s clock: when it measured; samples of one message differ only here and in idx.';
COMMENT ON COLUMN coord.v_metric_sample.projected_at IS 'Database''s clock: when the statement that wrote the row began.';
COMMENT ON COLUMN coord.v_metric_sample.partition IS 'Partition of the stream: FNV-1a of agent, mod 16.';
COMMENT ON COLUMN coord.v_metric_sample.epoch IS 'Incarnation of the stream; (epoch, seq, idx) identifies the row.';
COMMENT ON COLUMN coord.v_metric_sample.seq IS 'Sequence of its message in the stream.';
COMMENT ON COLUMN coord.v_metric_sample.idx IS 'Place in its frame.';
