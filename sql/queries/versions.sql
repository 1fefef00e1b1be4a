-- Which versions and models the fleet runs, and how each does.
-- :tenant  only this fleet; empty: all
-- :since   tasks submitted from then on = yesterday
-- Tasks count for what their last claimant is now.
WITH work AS (
  SELECT
    t.tenant, t.claimant, count(*) AS tasks, count(*) FILTER (WHERE t.status = 'completed') AS completed,
    sum(t.failures + t.deaths) AS bad, sum(t.run_seconds) AS run
  FROM coord.v_task AS t
  WHERE t.claimant IS NOT NULL AND (:'tenant' = '' OR t.tenant = :'tenant') AND t.submitted_at >= :'since'::timestamptz
  GROUP BY t.tenant, t.claimant
)

SELECT
  coalesce(a.version, '(not said)') AS version, coalesce(a.model, '(not said)') AS model, count(*) AS agents,
  count(*) FILTER (WHERE a.instances_there > 0) AS there, coalesce(sum(w.tasks), 0)::bigint AS tasks,
  round(sum(w.completed) / nullif(sum(w.tasks), 0), 4)::double precision AS completed,
  round(sum(w.bad) / nullif(sum(w.tasks), 0), 4)::double precision AS bad_per_task,
  round((sum(w.run) / nullif(sum(w.completed), 0)::double precision)::numeric, 3)::double precision AS seconds_per_task
FROM coord.v_agent AS a
LEFT JOIN work AS w ON w.tenant = a.tenant AND w.claimant = a.agent
WHERE :'tenant' = '' OR a.tenant = :'tenant'
GROUP BY 1, 2
ORDER BY agents DESC, version, model
