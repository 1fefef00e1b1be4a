-- Draws the tasks of one batch; the same numbers give the same tasks, whatever the batches are.
-- :first   number of its first task
-- :last    number of its last task
-- :begin   when task 0 is submitted
-- :step_s  seconds from one submission to the next, on average
-- :agents  how many agents work, of all tenants = 400
-- :tenants how many fleets = 3
--
-- hashint8extended(n, k) is a random number of 64 bits for each n and k.  Of a hundred tasks forty are steps of workflows of five,
-- the others have ids of their own, as the SDK makes them: 74 random bits of the process that submits, and a count, which jumps from
-- batch to batch.  What a decider states has an id derived from what it is (docs/protocol.md, chapter 6).  Waits and runs have the
-- long tails that such times have.
INSERT INTO made
SELECT
  d.n, d.n / 5, (d.n % 5)::integer, d.is_step, d.r_placed < 0.25 OR d.is_step AND d.r_placed < 0.5,
  d.r_handed < 0.12, CASE WHEN d.r_fails < 0.02 THEN 4 WHEN d.r_fails < 0.07 THEN 1 ELSE 0 END,
  CASE WHEN d.r_fails < 0.02 THEN 'failed' WHEN d.r_fails > 0.99 THEN 'cancelled' ELSE 'completed' END,
  d.submitted_at, d.submitted_at + d.wait_s * interval '1 s',
  d.submitted_at + (d.wait_s + d.run_s + 1) * interval '1 s',
  x.ended_at, max(x.ended_at) OVER (PARTITION BY d.n / 5) + interval '2 ms', d.run_s, d.tenant,
  CASE WHEN d.is_step THEN 'wf-' || to_hex(d.n / 5) ELSE d.session || lpad(to_hex(d.counted), 12, '0') END,
  CASE
    WHEN d.is_step THEN (ARRAY['plan', 'search', 'read', 'write', 'review'])[d.n % 5 + 1] ELSE d.session || lpad(to_hex(d.counted), 12, '0')
  END,
  (ARRAY['search', 'code', 'review', 'plan', 'browse', 'embed', 'translate', 'deploy'])[d.capability],
  CASE WHEN d.r_priority < 0.1 THEN 'critical' WHEN d.r_priority < 0.7 THEN 'normal' ELSE 'batch' END,
  CASE WHEN d.is_step THEN '_workflow' ELSE d.gateway END,
  'agent-' || d.tenant_n || '-' || (d.h_worker & 2147483647) % d.agents,
  'agent-' || d.tenant_n || '-' || (d.h_next & 2147483647) % d.agents,
  to_hex(hashint8extended((d.h_worker & 2147483647) % d.agents, d.tenant_n)),
  to_hex(hashint8extended((d.h_next & 2147483647) % d.agents, d.tenant_n)),
  CASE WHEN NOT d.is_step THEN to_hex(hashint8extended(-1 - (d.h_submitter & 3), d.tenant_n)) END,
  CASE
    WHEN d.is_step
      THEN 'wf-' || to_hex(d.n / 5) || ':research@3:' || (ARRAY['plan', 'search', 'read', 'write', 'review'])[d.n % 5 + 1] || '/submitted:0.0'
    ELSE d.session || lpad(to_hex(d.counted + 1), 12, '0')
  END,
  d.random
FROM (
  SELECT
    t.*, (ARRAY['acme', 'globex', 'initech'])[1 + (t.tenant_n % 3)] || CASE WHEN t.tenant_n < 3 THEN '' ELSE '-' || t.tenant_n END AS tenant,
    greatest(1, :'agents'::bigint / greatest(1, :'tenants'::bigint)) AS agents,
    -- Exponential, with a capability that is overrun and one whose work takes long.
    -ln(1 - t.r_wait) * CASE WHEN t.capability = 3 THEN 4 ELSE 0.4 END AS wait_s,
    -ln(1 - t.r_run) * (ARRAY[1.5, 20, 8, 3, 6, 0.3, 2, 40])[t.capability] AS run_s,
    w.gateway,
    substr(md5(w.gateway), 1, 8) || '-' || substr(md5(w.gateway), 9, 4) || '-8' || substr(md5(w.gateway), 13, 3) || '-9'
    || substr(md5(w.gateway), 16, 3) || '-' AS session,
    -- Of a task two ids: its own, and its submission's.
    2 * (:'first'::bigint - 1 + count(*) FILTER (WHERE NOT t.is_step) OVER (PARTITION BY w.gateway ORDER BY t.submitted_at, t.n)) AS counted
  FROM (
    SELECT
      g.n, g.submitted_at, md5(g.n::text) AS random,
      (hashint8extended(g.n / 5, 1) & 1048575) < 1048576 * 0.4 AS is_step,
      -- The first fleet has most of the work.
      floor(:'tenants'::bigint * ((hashint8extended(g.n / 5, 2) & 1048575) / 1048576.0) ^ 2)::bigint AS tenant_n,
      (1 + floor(8 * ((hashint8extended(g.n, 3) & 1048575) / 1048576.0) ^ 2))::integer AS capability,
      (hashint8extended(g.n, 4) & 1048575) / 1048576.0::double precision AS r_wait,
      (hashint8extended(g.n, 5) & 1048575) / 1048576.0::double precision AS r_run,
      (hashint8extended(g.n, 6) & 1048575) / 1048576.0::double precision AS r_fails,
      (hashint8extended(g.n, 7) & 1048575) / 1048576.0::double precision AS r_priority,
      (hashint8extended(g.n, 8) & 1048575) / 1048576.0::double precision AS r_placed,
      (hashint8extended(g.n, 9) & 1048575) / 1048576.0::double precision AS r_handed,
      hashint8extended(g.n, 10) AS h_submitter, hashint8extended(g.n, 11) AS h_worker, hashint8extended(g.n, 12) AS h_next
    FROM (
      SELECT
        n,
        -- Steps of a workflow follow each other; arrivals jitter.
        :'begin'::timestamptz
        + (n + (hashint8extended(n, 0) & 1023) / 1024.0) * :'step_s'::double precision * interval '1 s' AS submitted_at
      FROM generate_series(:'first'::bigint, :'last'::bigint) AS s (n)
    ) AS g
  ) AS t
  CROSS JOIN LATERAL (SELECT 'gateway-' || t.tenant_n || '-' || (t.h_submitter & 3) AS gateway) AS w
) AS d
CROSS JOIN LATERAL (
  SELECT d.submitted_at + (d.wait_s + d.run_s + CASE WHEN d.r_fails < 0.07 THEN d.run_s + 2 ELSE 0 END) * interval '1 s' AS ended_at
) AS x
