-- How many facts and tasks the fleet got through, hour by hour.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :since   hours from then on = yesterday
-- :until   hours before then = infinity
-- Counted in the hour in which the log stored the fact; moved are claims that were released or given back.
SELECT
  r.bucket AS hour,
  sum(r.facts)::bigint AS facts,
  coalesce(sum(r.facts) FILTER (WHERE r.kind = 'task' AND r.event = 'submitted'), 0)::bigint AS submitted,
  coalesce(sum(r.facts) FILTER (WHERE r.kind = 'task' AND r.event = 'completed'), 0)::bigint AS completed,
  coalesce(sum(r.facts) FILTER (WHERE r.kind = 'task' AND r.event IN ('failed', 'rejected', 'expired')), 0)::bigint AS failed,
  coalesce(sum(r.facts) FILTER (WHERE r.kind = 'task' AND r.event IN ('released', 'returned')), 0)::bigint AS moved,
  coalesce(sum(r.facts) FILTER (WHERE r.kind = 'handoff' AND r.event = 'offered'), 0)::bigint AS handoffs
FROM coord.v_fact_rate_1h AS r
WHERE (:'tenant' = '' OR r.tenant = :'tenant')
  AND r.bucket >= :'since'::timestamptz AND r.bucket < :'until'::timestamptz
GROUP BY r.bucket
ORDER BY r.bucket
