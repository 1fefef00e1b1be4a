-- Who holds which lock, and who waits for it, in the order of their turns.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :lock    only this one; empty: all
-- :agent   only what this agent holds or waits for; empty: all
-- :limit   at most so many = 100
-- fence is the number to show to what the lock protects: a later holder has a higher one.
SELECT
  l.tenant, l.id AS lock, l.key, l.permits, l.agent, l.instance, CASE WHEN l.holds THEN 'holds' ELSE 'waits' END AS state,
  l.since, l.granted_at, l.fence
FROM coord.v_lock AS l
WHERE (:'tenant' = '' OR l.tenant = :'tenant') AND (:'lock' = '' OR l.id = :'lock') AND (:'agent' = '' OR l.agent = :'agent')
ORDER BY l.tenant, l.key, l.id, l.fence
LIMIT :'limit'::bigint
