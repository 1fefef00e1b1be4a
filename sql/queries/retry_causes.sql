-- Why tasks are tried again: failures, lost claims and returns, by capability and cause, and what became of the tasks.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- failed: an attempt ended with that error; released: its agent died, hung or overran; returned: its agent gave it back.
-- completed are the tasks that got there all the same; seconds_lost is what the attempts had run.
SELECT
  coalesce(t.capability, '(unknown)') AS capability, e.event,
  coalesce(CASE e.event WHEN 'failed' THEN e.data ->> 'error' ELSE e.data ->> 'reason' END, '(not said)') AS cause,
  count(*) AS times, count(DISTINCT (e.tenant, e.key, e.id)) AS tasks, count(DISTINCT e.agent) AS said_by,
  count(DISTINCT (e.tenant, e.key, e.id)) FILTER (WHERE t.status = 'completed') AS completed,
  count(DISTINCT (e.tenant, e.key, e.id)) FILTER (WHERE t.status IN ('failed', 'rejected', 'expired')) AS dead,
  round(coalesce(sum((e.data ->> 'run_s')::double precision), 0)::numeric, 3)::double precision AS seconds_lost
FROM coord.v_event AS e
LEFT JOIN coord.v_task AS t ON t.tenant = e.tenant AND t.key = e.key AND t.id = e.id
WHERE e.kind = 'task' AND e.event IN ('failed', 'released', 'returned')
  AND (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY 1, 2, 3
ORDER BY times DESC, capability, e.event, cause
