-- How tasks, handoffs and workflows ended, day by day.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :since   days from then on = -infinity
-- :until   days before then = infinity
-- :kind    task, handoff or workflow; empty: all
-- share is of all that ended of that kind on that day.
SELECT
  o.bucket AS day, o.kind, o.status, sum(o.ends)::bigint AS ends,
  round(sum(o.ends) / sum(sum(o.ends)) OVER (PARTITION BY o.bucket, o.kind), 4)::double precision AS share,
  (sum(o.wait_seconds) / nullif(sum(o.waits), 0))::double precision AS mean_wait_seconds,
  (sum(o.run_seconds) / nullif(sum(o.runs), 0))::double precision AS mean_run_seconds
FROM coord.v_outcome_1d AS o
WHERE (:'tenant' = '' OR o.tenant = :'tenant') AND (:'kind' = '' OR o.kind = :'kind')
  AND o.bucket >= :'since'::timestamptz AND o.bucket < :'until'::timestamptz
GROUP BY o.bucket, o.kind, o.status
ORDER BY o.bucket, o.kind, ends DESC, o.status
