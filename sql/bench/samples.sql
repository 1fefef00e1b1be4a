-- Samples of every agent's series, evenly over the time.
-- :first   number of the first one
-- :last    number of the last one
-- :begin   when sample 0 is taken
-- :step_s  seconds from one to the next
-- :agents  how many agents, of all tenants = 400
-- :tenants how many fleets = 3
INSERT INTO coord.metric_sample (
  stored_at, epoch, seq, idx, partition, tenant, agent, series, occurred_at, value, data
)
SELECT
  s.at, 1, s.n, 0, (s.n & 15)::smallint,
  (ARRAY['acme', 'globex', 'initech'])[1 + (s.tenant_n % 3)] || CASE WHEN s.tenant_n < 3 THEN '' ELSE '-' || s.tenant_n END,
  'agent-' || s.tenant_n || '-' || (s.n / 7) % greatest(1, :'agents'::bigint / greatest(1, :'tenants'::bigint)),
  (ARRAY['cpu', 'rss', 'llm.tokens', 'llm.latency'])[1 + s.n % 4], s.at - interval '3 ms',
  round(((hashint8extended(s.n, 21) & 1048575) / 10485.76)::numeric, 2)::double precision, NULL
FROM (
  SELECT n, n % greatest(1, :'tenants'::bigint) AS tenant_n, :'begin'::timestamptz + n * :'step_s'::double precision * interval '1 s' AS at
  FROM generate_series(:'first'::bigint, :'last'::bigint) AS g (n)
) AS s
