-- How fast the fleet grows: facts and agents day by day, and against a week before.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :since   days from then on = -infinity
-- :until   days before then = infinity
-- week_factor is against the same day of the week before: 1.1 is a tenth more. The newest day is not over.
WITH day AS (
  SELECT
    r.bucket, sum(r.facts)::bigint AS facts, count(DISTINCT (r.tenant, r.agent)) FILTER (WHERE r.agent NOT LIKE '\_%') AS agents
  FROM coord.v_fact_rate_1d AS r
  WHERE (:'tenant' = '' OR r.tenant = :'tenant')
    AND r.bucket >= :'since'::timestamptz AND r.bucket < :'until'::timestamptz
  GROUP BY r.bucket
)

SELECT
  d.bucket AS day, d.facts, d.agents, round(d.facts / 86400.0, 2)::double precision AS facts_per_second,
  round(d.facts::numeric / nullif(w.facts, 0), 3)::double precision AS week_factor,
  sum(d.facts) OVER (ORDER BY d.bucket)::bigint AS facts_so_far
FROM day AS d
LEFT JOIN day AS w ON w.bucket = d.bucket - INTERVAL '7 days'
ORDER BY d.bucket
