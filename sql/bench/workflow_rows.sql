-- The batch's workflows as their own facts leave them at that moment.
-- :seq    sequence that stands as their newest fact's
-- :epoch  incarnation of the log = 1
-- :until  the moment
INSERT INTO coord.workflow (
  changed_at, started_at, ended_at, seq, epoch, idx, tenant, key, id, status, name, version, submitter, fold
)
SELECT
  w.started_at, w.started_at, CASE WHEN w.ended_at < :'until'::timestamptz THEN w.ended_at END, :'seq'::bigint + w.n, :'epoch'::integer, 0, w.tenant,
  w.key, w.key, CASE WHEN w.ended_at < :'until'::timestamptz THEN 'completed' ELSE 'running' END, 'research', '3', 'gateway-0-1',
  decode(repeat(w.random, 60), 'hex')
FROM (
  SELECT
    m.tenant, m.key, min(m.n) AS n, min(m.submitted_at) - interval '2 ms' AS started_at,
    min(m.over_at) AS ended_at, min(m.random) AS random
  FROM made AS m
  WHERE m.is_step
  GROUP BY m.tenant, m.key
) AS w
WHERE w.started_at < :'until'::timestamptz
ON CONFLICT DO NOTHING
