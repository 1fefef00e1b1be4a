-- Each telemetry series over the fleet: samples, agents, and how the values are spread.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- Telemetry may be shed under load, facts never are.
SELECT
  e.series,
  count(*) AS samples,
  count(DISTINCT e.agent) AS agents,
  min(e.value) AS least,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY e.value) AS p50,
  percentile_cont(0.99) WITHIN GROUP (ORDER BY e.value) AS p99,
  max(e.value) AS most
FROM coord.v_metric_sample AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY e.series
ORDER BY e.series
