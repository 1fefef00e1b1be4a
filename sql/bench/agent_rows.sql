-- The agents that work, as their newest facts would leave them, with what they can do.
-- :agents  how many, of all tenants = 400
-- :tenants how many fleets = 3
-- :begin   when they came
-- :until   the moment
WITH made AS (
  SELECT
    (ARRAY['acme', 'globex', 'initech'])[1 + (t.n % 3)] || CASE WHEN t.n < 3 THEN '' ELSE '-' || t.n END AS tenant,
    'agent-' || t.n || '-' || a.n AS agent, t.n * 1000 + a.n AS n
  FROM generate_series(0, :'tenants'::integer - 1) AS t (n)
  CROSS JOIN generate_series(0, greatest(1, :'agents'::integer / greatest(1, :'tenants'::integer)) - 1) AS a (n)
), registered AS (
  INSERT INTO coord.agent_registry (
    changed_at, registered_at, seq, epoch, idx, instances_there, tenant, key, id, model, version, capabilities, labels, instances, fold
  )
  SELECT
    :'begin'::timestamptz, :'begin'::timestamptz, m.n, 1, 0, 1, m.tenant, m.agent, m.agent, 'm' || m.n % 3, '1.4',
    jsonb_build_object((ARRAY['search', 'code', 'review', 'plan', 'browse', 'embed', 'translate', 'deploy'])[m.n % 8 + 1], 4),
    '{}', '{}', decode(repeat(md5(m.n::text), 20), 'hex')
  FROM made AS m
  ON CONFLICT DO NOTHING
)
INSERT INTO coord.agent (first_seen, last_seen, seq, epoch, idx, tenant, agent, state, status)
SELECT
  :'begin'::timestamptz, :'until'::timestamptz - (m.n % 600) * interval '1 s', m.n, 1, 0, m.tenant, m.agent,
  CASE WHEN m.n % 40 = 39 THEN 'gone' ELSE 'alive' END, jsonb_build_object('load', (m.n % 100) / 100.0, 'tasks', m.n % 4)
FROM made AS m
ON CONFLICT DO NOTHING
