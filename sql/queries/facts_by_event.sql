-- How many facts of each kind and event, by how many agents, and since when.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- agents counts different authors.
SELECT
  e.kind,
  e.event,
  count(*) AS facts,
  count(DISTINCT e.agent) AS agents,
  min(e.stored_at) AS first_at,
  max(e.stored_at) AS last_at
FROM coord.v_event AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY e.kind, e.event
ORDER BY facts DESC, e.kind, e.event
