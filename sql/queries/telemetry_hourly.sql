-- Each telemetry series, hour by hour: samples, sum, mean and the extremes.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :since   hours from then on = yesterday
-- :until   hours before then = infinity
-- :series  only this one; empty: all
-- Telemetry may be shed under load: compare samples with the hours before.
SELECT
  t.bucket AS hour, t.series, sum(t.samples)::bigint AS samples, count(DISTINCT (t.tenant, t.agent)) AS agents,
  sum(t.value_sum)::double precision AS value_sum, (sum(t.value_sum) / nullif(sum(t.samples), 0))::double precision AS mean,
  min(t.value_min) AS least, max(t.value_max) AS most
FROM coord.v_telemetry_1h AS t
WHERE (:'tenant' = '' OR t.tenant = :'tenant') AND (:'series' = '' OR t.series = :'series')
  AND t.bucket >= :'since'::timestamptz AND t.bucket < :'until'::timestamptz
GROUP BY t.bucket, t.series
ORDER BY t.bucket, t.series
