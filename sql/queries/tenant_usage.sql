-- What each fleet used, day by day: facts, agents, tasks, seconds of work.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :since   days from then on = -infinity
-- :until   days before then = infinity
-- agents are those that stated something that day, without coord's own deciders.
WITH fact AS (
  SELECT
    r.tenant, r.bucket, sum(r.facts)::bigint AS facts, count(DISTINCT r.agent) FILTER (WHERE r.agent NOT LIKE '\_%') AS agents
  FROM coord.v_fact_rate_1d AS r
  WHERE (:'tenant' = '' OR r.tenant = :'tenant')
    AND r.bucket >= :'since'::timestamptz AND r.bucket < :'until'::timestamptz
  GROUP BY r.tenant, r.bucket
),

ended AS (
  SELECT o.tenant, o.bucket, sum(o.ends)::bigint AS tasks, sum(o.run_seconds)::double precision AS run_seconds
  FROM coord.v_outcome_1d AS o
  WHERE o.kind = 'task' AND (:'tenant' = '' OR o.tenant = :'tenant')
    AND o.bucket >= :'since'::timestamptz AND o.bucket < :'until'::timestamptz
  GROUP BY o.tenant, o.bucket
)

SELECT
  f.bucket AS day, f.tenant, f.facts, f.agents, coalesce(e.tasks, 0) AS tasks, coalesce(e.run_seconds, 0) AS run_seconds
FROM fact AS f
LEFT JOIN ended AS e ON e.tenant = f.tenant AND e.bucket = f.bucket
ORDER BY f.bucket, f.facts DESC, f.tenant
