-- Where tasks are tried more than once: failures, deaths and redrives by capability.
-- :tenant  only this fleet; empty: all
-- :since   submitted from then on = -infinity
-- failures are errors of agents, deaths are claims whose agent died, hung or overran; `retry_causes` says why.
SELECT
  t.tenant, t.capability, count(*) AS tasks, count(*) FILTER (WHERE t.attempts > 1) AS tried_again, max(t.attempts) AS attempts_most,
  sum(t.failures) AS failures, sum(t.deaths) AS deaths, sum(t.redrives) AS redrives,
  mode() WITHIN GROUP (ORDER BY t.error) AS error_most
FROM coord.v_task AS t
WHERE (:'tenant' = '' OR t.tenant = :'tenant') AND t.submitted_at >= :'since'::timestamptz
GROUP BY t.tenant, t.capability
ORDER BY sum(t.failures) + sum(t.deaths) DESC, t.tenant, t.capability
