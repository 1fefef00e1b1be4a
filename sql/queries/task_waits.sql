-- How long tasks wait and run, by capability and priority.
-- :tenant  only this fleet; empty: all
-- :since   submitted from then on = -infinity
-- Waiting ends with the first claim, or has not ended; running is that of the last execution. In seconds.
SELECT
  t.tenant, t.capability, t.priority, count(*) AS tasks, count(*) FILTER (WHERE t.ended_at IS NULL) AS open,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY t.wait_seconds))::numeric, 3)::double precision AS wait_p50,
  round((percentile_cont(0.95) WITHIN GROUP (ORDER BY t.wait_seconds))::numeric, 3)::double precision AS wait_p95,
  round((percentile_cont(0.99) WITHIN GROUP (ORDER BY t.wait_seconds))::numeric, 3)::double precision AS wait_p99,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY t.run_seconds))::numeric, 3)::double precision AS run_p50,
  round((percentile_cont(0.95) WITHIN GROUP (ORDER BY t.run_seconds))::numeric, 3)::double precision AS run_p95,
  round((percentile_cont(0.99) WITHIN GROUP (ORDER BY t.run_seconds))::numeric, 3)::double precision AS run_p99
FROM coord.v_task AS t
WHERE (:'tenant' = '' OR t.tenant = :'tenant') AND t.submitted_at >= :'since'::timestamptz
GROUP BY t.tenant, t.capability, t.priority
ORDER BY t.tenant, t.capability, t.priority
