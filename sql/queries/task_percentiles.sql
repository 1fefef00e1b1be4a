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

-- The histograms of all hours are one before percentiles are read from it, by the rule of coord.percentile_of: the first
-- slot by which so many are reached. Without that aggregate, whose steps take a fifth of the whole.
wait_reached AS (
  SELECT
    s.capability, s.slot, sum(s.ends) OVER (PARTITION BY s.capability)::double precision AS total,
    sum(s.ends) OVER (PARTITION BY s.capability ORDER BY s.slot)::double precision AS reached
  FROM wait_slot AS s
),

run_reached AS (
  SELECT
    s.capability, s.slot, sum(s.ends) OVER (PARTITION BY s.capability)::double precision AS total,
    sum(s.ends) OVER (PARTITION BY s.capability ORDER BY s.slot)::double precision AS reached
  FROM run_slot AS s
),

wait AS (
  SELECT
    s.capability, max(s.total)::bigint AS tasks,
    coord.slot_seconds(min(s.slot) FILTER (WHERE s.reached >= greatest(1, ceil(0.5 * s.total)))) AS p50,
    coord.slot_seconds(min(s.slot) FILTER (WHERE s.reached >= greatest(1, ceil(0.95 * s.total)))) AS p95,
    coord.slot_seconds(min(s.slot) FILTER (WHERE s.reached >= greatest(1, ceil(0.99 * s.total)))) AS p99
  FROM wait_reached AS s
  GROUP BY s.capability
),

run AS (
  SELECT
    s.capability, max(s.total)::bigint AS tasks,
    coord.slot_seconds(min(s.slot) FILTER (WHERE s.reached >= greatest(1, ceil(0.5 * s.total)))) AS p50,
    coord.slot_seconds(min(s.slot) FILTER (WHERE s.reached >= greatest(1, ceil(0.95 * s.total)))) AS p95,
    coord.slot_seconds(min(s.slot) FILTER (WHERE s.reached >= greatest(1, ceil(0.99 * s.total)))) AS p99
  FROM run_reached AS s
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
