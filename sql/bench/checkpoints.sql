-- Says that everything is projected up to that moment: rollups go no further than the checkpoints.
-- :seq    of the newest facts
-- :until  the moment
INSERT INTO coord.checkpoint (stream_created, stored_at, seq, epoch, partition, stream)
SELECT :'until'::timestamptz - interval '1 year', :'until'::timestamptz, :'seq'::bigint, 1, p.n, s.name
FROM generate_series(0, 15) AS p (n)
CROSS JOIN (VALUES ('EVENTS'), ('TELEMETRY')) AS s (name)
ON CONFLICT DO NOTHING
