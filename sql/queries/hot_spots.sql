-- Where the facts come from: the busiest keys, agents, capabilities, kinds of fact and partitions.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- :limit   of each, at most so many = 10
-- A key is handled in order, one fact after the other: one with a large share of a partition cannot go faster by more agents.
-- share is of all facts in that time, of a capability of all tasks submitted.
WITH fact AS (
  SELECT
    e.key, e.agent, e.kind || '.' || e.event AS event, e.partition,
    CASE WHEN e.kind = 'task' AND e.event = 'submitted' THEN split_part(e.detail, '.', 1) END AS capability
  FROM coord.v_event AS e
  WHERE (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
),

spot AS (
  SELECT
    CASE
      WHEN grouping(f.key) = 0 THEN 'key'
      WHEN grouping(f.agent) = 0 THEN 'agent'
      WHEN grouping(f.event) = 0 THEN 'event'
      WHEN grouping(f.capability) = 0 THEN 'capability'
      ELSE 'partition'
    END AS what,
    coalesce(f.key, f.agent, f.event, f.capability, f.partition::text) AS name,
    count(*) AS facts
  FROM fact AS f
  GROUP BY GROUPING SETS (f.key, f.agent, f.event, f.capability, f.partition)
),

ranked AS (
  SELECT
    s.what, s.name, s.facts, row_number() OVER (PARTITION BY s.what ORDER BY s.facts DESC, s.name) AS place,
    sum(s.facts) OVER (PARTITION BY s.what) AS whole
  FROM spot AS s
  WHERE s.name IS NOT NULL
)

SELECT r.what, r.place, r.name, r.facts, round(r.facts / r.whole, 4)::double precision AS share
FROM ranked AS r
WHERE r.place <= :'limit'::bigint
ORDER BY r.what, r.place
