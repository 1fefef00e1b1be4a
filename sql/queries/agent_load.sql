-- How much each agent had to do: tasks that ended with it, how long they ran, how many attempts and failures they took.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :since   ended in hours from then on = yesterday
-- :until   ended in hours before then = infinity
-- :limit   at most so many, the busiest = 100
-- The last claimant of a task counts, in the hour in which it ended.
SELECT
  o.tenant, o.agent, sum(o.ends)::bigint AS tasks,
  coalesce(sum(o.ends) FILTER (WHERE o.status = 'completed'), 0)::bigint AS completed,
  sum(o.run_seconds)::double precision AS run_seconds,
  (sum(o.run_seconds) / nullif(sum(o.runs), 0))::double precision AS mean_run_seconds,
  sum(o.attempts)::bigint AS attempts, sum(o.failures)::bigint AS failures
FROM coord.v_work_1h AS o
WHERE o.kind = 'task' AND (:'tenant' = '' OR o.tenant = :'tenant')
  AND o.bucket >= :'since'::timestamptz AND o.bucket < :'until'::timestamptz
GROUP BY o.tenant, o.agent
ORDER BY run_seconds DESC NULLS LAST, o.tenant, o.agent
LIMIT :'limit'::bigint
