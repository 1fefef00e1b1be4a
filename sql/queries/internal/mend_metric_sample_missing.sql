-- Rows of said_metric_sample at whose places there is neither a row nor a dead letter.
INSERT INTO coord.metric_sample (
    stored_at, occurred_at, value, seq, epoch, idx, partition, tenant, agent, series, data
)
SELECT
    s.stored_at, s.occurred_at, s.value, s.seq, s.epoch, s.idx, s.partition, s.tenant, s.agent,
    s.series, s.data
FROM said_metric_sample AS s
WHERE NOT EXISTS (
  SELECT FROM coord.metric_sample AS e
  WHERE (e.epoch, e.seq, e.idx) = (s.epoch, s.seq, s.idx)
    AND e.stored_at >= (SELECT min(stored_at) FROM said_metric_sample) - INTERVAL '1 minute'
    AND e.stored_at <= (SELECT max(stored_at) FROM said_metric_sample) + INTERVAL '1 minute'
) AND NOT EXISTS (
  SELECT FROM coord.dead_letter AS d
  WHERE d.stream = 'TELEMETRY' AND (d.epoch, d.seq, d.idx) = (s.epoch, s.seq, s.idx)
)
RETURNING epoch, seq, idx
