-- The batch's tasks as their facts leave them at that moment; `fold` is filler of the usual length.
-- :seq    sequence that stands as their newest fact's
-- :epoch  incarnation of the log = 1
-- :until  the moment
INSERT INTO coord.task (
  changed_at, submitted_at, started_first_at, claimed_at, ended_at, run_s, seq, epoch, idx, claims, failures, deaths, redrives, tenant, key,
  id, status, capability, queue, priority, submitter, claimant, instance, error, message, correlation_id, fold
)
SELECT
  CASE WHEN m.ended_at < u.until THEN m.ended_at WHEN m.claimed_at < u.until THEN m.claimed_at ELSE m.submitted_at END, m.submitted_at,
  CASE WHEN m.claimed_at < u.until THEN m.claimed_at END,
  CASE WHEN m.claimed_at < u.until THEN CASE WHEN m.fails > 0 AND m.again_at < u.until THEN m.again_at ELSE m.claimed_at END END,
  CASE WHEN m.ended_at < u.until THEN m.ended_at END, CASE WHEN m.ended_at < u.until THEN m.run_s END, :'seq'::bigint + m.n, :'epoch'::integer, 0,
  CASE WHEN m.claimed_at >= u.until THEN 0 WHEN m.fails > 0 AND m.again_at < u.until THEN 2 ELSE 1 END,
  CASE WHEN m.fails > 0 AND m.again_at < u.until THEN CASE WHEN m.outcome = 'failed' THEN 2 ELSE 1 END ELSE 0 END,
  (m.n % 500 = 0)::integer, 0, m.tenant, m.key, m.id,
  CASE WHEN m.ended_at < u.until THEN m.outcome WHEN m.claimed_at < u.until THEN 'claimed' ELSE 'queued' END,
  m.capability, CASE WHEN m.is_placed THEN 'placed' ELSE m.priority END, m.priority, m.submitter,
  CASE WHEN m.claimed_at < u.until THEN CASE m.fails WHEN 0 THEN m.worker ELSE m.next_worker END END,
  CASE WHEN m.claimed_at < u.until THEN m.instance END,
  CASE WHEN m.fails > 0 AND m.again_at < u.until THEN (ARRAY['Timeout', 'RateLimited', 'ToolError', 'BadAnswer'])[m.n % 4 + 1] END, NULL,
  NULL, decode(repeat(m.random, 28), 'hex')
FROM made AS m
CROSS JOIN (SELECT :'until'::timestamptz AS until) AS u
WHERE m.submitted_at < u.until
ON CONFLICT DO NOTHING
