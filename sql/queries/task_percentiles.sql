-- How long tasks of each capability wait and run: p50, p95 and p99.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :since   ended in hours from then on = yesterday
-- :until   ended in hours before then = infinity
-- From hourly histograms, so that a week costs as little as a day: each value is right within 4.5 %. In seconds. Counted
-- when a task ended, in whichever way; waiting is until its first claim. `task_waits` has the exact values, from each task.
WITH wait_slot AS (
  SELECT w.capability, w.slot, sum(w.ends)::bigint AS ends
  FROM coord.v_wait_1h AS w
  WHERE w.kind = 'task' AND (:'tenant' = '' OR w.tenant = :'tenant')
    AND w.bucket >= :'since'::timestamptz AND w.bucket < :'until'::timestamptz
  GROUP BY w.capability, w.slot
),

run_slot AS (
  SELECT r.capability, r.slot, sum(r.ends)::bigint AS ends
  FROM coord.v_run_1h AS r
  WHERE r.kind = 'task' AND (:'tenant' = '' OR r.tenant = :'tenant')
    AND r.bucket >= :'since'::timestamptz AND r.bucket < :'until'::timestamptz
  GROUP BY r.capability, r.slot
),

-- The histograms of all hours are one before percentiles are read from it.
wait AS (
  SELECT
    s.capability, sum(s.ends)::bigint AS tasks, coord.percentile_of(s.slot, s.ends, 0.5) AS p50,
    coord.percentile_of(s.slot, s.ends, 0.95) AS p95, coord.percentile_of(s.slot, s.ends, 0.99) AS p99
  FROM wait_slot AS s
  GROUP BY s.capability
),

run AS (
  SELECT
    s.capability, sum(s.ends)::bigint AS tasks, coord.percentile_of(s.slot, s.ends, 0.5) AS p50,
    coord.percentile_of(s.slot, s.ends, 0.95) AS p95, coord.percentile_of(s.slot, s.ends, 0.99) AS p99
  FROM run_slot AS s
  GROUP BY s.capability
)

SELECT
  coalesce(w.capability, r.capability) AS capability, coalesce(w.tasks, 0) AS waited,
  round(w.p50::numeric, 4)::double precision AS wait_p50, round(w.p95::numeric, 4)::double precision AS wait_p95,
  round(w.p99::numeric, 4)::double precision AS wait_p99, coalesce(r.tasks, 0) AS ran,
  round(r.p50::numeric, 4)::double precision AS run_p50, round(r.p95::numeric, 4)::double precision AS run_p95,
  round(r.p99::numeric, 4)::double precision AS run_p99
FROM wait AS w
FULL JOIN run AS r ON r.capability = w.capability
ORDER BY w.p95 DESC NULLS LAST, capability
