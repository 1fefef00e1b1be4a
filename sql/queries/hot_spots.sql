-- Where the facts come from: the busiest keys, agents, capabilities, kinds of fact and partitions.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- :limit   of each, at most so many = 10
-- A key is handled in order, one fact after the other: one with a large share of a partition cannot go faster by more agents.
-- share is of all facts in that time, of a capability of all tasks submitted. Agents and events are counted by whole hours.
WITH key AS (
  SELECT e.key, e.partition, count(*) AS facts
  FROM coord.v_event AS e
  WHERE (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
  GROUP BY e.key, e.partition
),

hourly AS (
  SELECT r.agent, r.kind, r.event, sum(r.facts) AS facts
  FROM coord.v_fact_rate_1h AS r
  WHERE (:'tenant' = '' OR r.tenant = :'tenant')
    AND r.bucket >= time_bucket(INTERVAL '1 hour', :'since'::timestamptz) AND r.bucket < :'until'::timestamptz
  GROUP BY r.agent, r.kind, r.event
),

spot AS (
  SELECT 'key' AS what, k.key AS name, k.facts::numeric AS facts, sum(k.facts) OVER () AS whole FROM key AS k
  UNION ALL
  SELECT 'partition', k.partition::text, sum(k.facts), sum(sum(k.facts)) OVER () FROM key AS k GROUP BY k.partition
  UNION ALL
  SELECT 'agent', h.agent, sum(h.facts), sum(sum(h.facts)) OVER () FROM hourly AS h GROUP BY h.agent
  UNION ALL
  SELECT 'event', h.kind || '.' || h.event, sum(h.facts), sum(sum(h.facts)) OVER () FROM hourly AS h GROUP BY h.kind, h.event
  UNION ALL
  SELECT 'capability', t.capability, count(*), sum(count(*)) OVER ()
  FROM coord.v_task AS t
  WHERE (:'tenant' = '' OR t.tenant = :'tenant')
    AND t.submitted_at >= :'since'::timestamptz AND t.submitted_at < :'until'::timestamptz
  GROUP BY t.capability
),

ranked AS (
  SELECT s.what, s.name, s.facts, s.whole, row_number() OVER (PARTITION BY s.what ORDER BY s.facts DESC, s.name) AS place
  FROM spot AS s
)

SELECT r.what, r.place, r.name, r.facts::bigint AS facts, round(r.facts / r.whole, 4)::double precision AS share
FROM ranked AS r
WHERE r.place <= :'limit'::bigint
ORDER BY r.what, r.place
