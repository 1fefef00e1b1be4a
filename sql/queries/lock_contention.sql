-- Which locks agents queue for: holders, those behind them, the longest wait.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :limit   at most so many = 50
-- waiting is those in the queue now; locks that nobody waits for are not listed.
SELECT
  l.tenant, l.id AS lock, l.key, max(l.permits) AS permits, count(*) FILTER (WHERE NOT l.holds) AS waiting,
  string_agg(l.agent, ', ' ORDER BY l.fence) FILTER (WHERE l.holds) AS held_by,
  round(max(extract(epoch FROM now() - l.granted_at)) FILTER (WHERE l.holds), 1)::double precision AS held_seconds,
  round(max(extract(epoch FROM now() - l.since)) FILTER (WHERE NOT l.holds), 1)::double precision AS longest_wait_seconds
FROM coord.v_lock AS l
WHERE (:'tenant' = '' OR l.tenant = :'tenant')
GROUP BY l.tenant, l.key, l.id
HAVING count(*) FILTER (WHERE NOT l.holds) > 0
ORDER BY waiting DESC, l.tenant, l.key, l.id
LIMIT :'limit'::bigint
