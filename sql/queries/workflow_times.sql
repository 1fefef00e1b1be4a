-- How long workflows take and how they end, by definition and version.
-- :tenant  only this fleet; empty: all
-- :since   started from then on = yesterday
-- Times are of completed ones.
SELECT
  w.name, w.version, count(*) AS workflows, count(*) FILTER (WHERE w.ended_at IS NULL) AS open,
  count(*) FILTER (WHERE w.status = 'completed') AS completed, count(*) FILTER (WHERE w.status = 'failed') AS failed,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY w.seconds) FILTER (WHERE w.status = 'completed'))::numeric, 3)::double precision AS p50_seconds,
  round((percentile_cont(0.95) WITHIN GROUP (ORDER BY w.seconds) FILTER (WHERE w.status = 'completed'))::numeric, 3)::double precision AS p95_seconds,
  round((percentile_cont(0.99) WITHIN GROUP (ORDER BY w.seconds) FILTER (WHERE w.status = 'completed'))::numeric, 3)::double precision AS p99_seconds,
  mode() WITHIN GROUP (ORDER BY w.step) AS fails_most_at, mode() WITHIN GROUP (ORDER BY w.error) AS error_most
FROM coord.v_workflow AS w
WHERE (:'tenant' = '' OR w.tenant = :'tenant') AND w.started_at >= :'since'::timestamptz
GROUP BY w.name, w.version
ORDER BY workflows DESC, w.name, w.version
