-- One dead letter with everything that was kept of it; text is the body with odd bytes escaped.
-- :stream  EVENTS or TELEMETRY = EVENTS
-- :seq     its sequence in the stream
-- :epoch   incarnation of the stream; empty: any
-- :idx     entry of its frame; empty: all
-- What to redrive or drop with `coord dlq`; the body is what was published, byte for byte.
SELECT
  d.stream, d.epoch, d.seq, d.idx, d.partition, d.subject, d.tenant, d.agent, d.code, d.reason,
  d.stored_at, d.dead_at, d.headers, d.body_bytes, d.body, encode(d.body, 'escape') AS text
FROM coord.v_dead_letter AS d
WHERE d.stream = :'stream' AND d.seq = :'seq'::bigint
  AND d.epoch = coalesce(nullif(:'epoch', '')::integer, d.epoch)
  AND d.idx = coalesce(nullif(:'idx', '')::integer, d.idx)
ORDER BY d.epoch, d.idx
