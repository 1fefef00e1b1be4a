-- How many facts and tasks the fleet got through, hour by hour.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- Tasks count in the hour in which the fact was stored; moved are claims that were released or given back.
SELECT
  time_bucket(INTERVAL '1 hour', e.stored_at) AS hour,
  count(*) AS facts,
  count(*) FILTER (WHERE e.kind = 'task' AND e.event = 'submitted') AS submitted,
  count(*) FILTER (WHERE e.kind = 'task' AND e.event = 'completed') AS completed,
  count(*) FILTER (WHERE e.kind = 'task' AND e.event IN ('failed', 'rejected', 'expired')) AS failed,
  count(*) FILTER (WHERE e.kind = 'task' AND e.event IN ('released', 'returned')) AS moved,
  count(*) FILTER (WHERE e.kind = 'handoff' AND e.event = 'offered') AS handoffs
FROM coord.v_event AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY hour
ORDER BY hour
