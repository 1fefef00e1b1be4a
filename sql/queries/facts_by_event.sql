-- How many facts of each kind and event, by how many agents, and since when.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- agents counts different authors.
WITH agent AS (
  SELECT e.kind, e.event, e.agent, count(*) AS facts, min(e.stored_at) AS first_at, max(e.stored_at) AS last_at
  FROM coord.v_event AS e
  WHERE (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
  GROUP BY e.kind, e.event, e.agent
)

SELECT
  a.kind, a.event, sum(a.facts)::bigint AS facts, count(*) AS agents, min(a.first_at) AS first_at, max(a.last_at) AS last_at
FROM agent AS a
GROUP BY a.kind, a.event
ORDER BY facts DESC, a.kind, a.event
