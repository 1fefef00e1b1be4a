-- The ends of the batch's tasks, handoffs and workflows by that moment, as the projector appends them.
-- :until  the moment
INSERT INTO coord.outcome (stored_at, wait_s, run_s, attempts, failures, tenant, kind, status, capability, priority, from_agent, agent)
SELECT
  m.ended_at, extract(epoch FROM m.claimed_at - m.submitted_at), m.run_s, CASE m.fails WHEN 0 THEN 1 ELSE 2 END,
  CASE m.outcome WHEN 'failed' THEN 2 ELSE least(m.fails, 1) END + (m.n % 500 = 0)::integer, m.tenant, 'task', m.outcome, m.capability,
  m.priority, m.submitter, CASE m.fails WHEN 0 THEN m.worker ELSE m.next_worker END
FROM made AS m
WHERE m.ended_at < :'until'::timestamptz
UNION ALL
SELECT
  m.claimed_at + (m.run_s * 0.6 + 0.1) * interval '1 s', 0.1, NULL, 1, 0, m.tenant, 'handoff', 'accepted', '', '', m.worker, m.next_worker
FROM made AS m
WHERE m.is_handed AND m.claimed_at + (m.run_s * 0.6 + 0.1) * interval '1 s' < :'until'::timestamptz
UNION ALL
SELECT
  min(m.over_at), NULL, extract(epoch FROM min(m.over_at) - min(m.submitted_at)) + 0.002, 1, 0, m.tenant, 'workflow',
  'completed', 'research', '', 'gateway-0-1', ''
FROM made AS m
WHERE m.is_step
GROUP BY m.tenant, m.key
HAVING min(m.over_at) < :'until'::timestamptz
