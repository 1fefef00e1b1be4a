-- Who did whose tasks: how many, how long they waited and ran.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- claims above tasks means that work was begun more than once.
WITH e AS (
  SELECT v.tenant, v.key, v.id, v.event, v.agent, v.stored_at, v.data
  FROM coord.v_event AS v
  WHERE v.kind = 'task' AND v.event IN ('submitted', 'claimed', 'completed')
  AND (:'tenant' = '' OR v.tenant = :'tenant')
  AND v.stored_at >= :'since'::timestamptz AND v.stored_at < :'until'::timestamptz
),

task AS (
  SELECT
    min(e.agent) FILTER (WHERE e.event = 'submitted') AS submitter,
    min(e.agent) FILTER (WHERE e.event = 'completed') AS done_by,
    min(e.stored_at) FILTER (WHERE e.event = 'claimed') - min(e.stored_at) FILTER (WHERE e.event = 'submitted')
      AS waited,
    max((e.data ->> 'run_s')::double precision) FILTER (WHERE e.event = 'completed') AS run_s,
    count(*) FILTER (WHERE e.event = 'claimed') AS claims
  FROM e
  GROUP BY e.tenant, e.key, e.id
)

SELECT
  t.submitter AS from_agent,
  t.done_by,
  count(*) AS tasks,
  sum(t.claims)::bigint AS claims,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM t.waited)))::numeric, 2)::double precision
    AS p50_wait_s,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY t.run_s))::numeric * 1000, 1)::double precision AS p50_run_ms
FROM task AS t
WHERE t.done_by IS NOT NULL
GROUP BY t.submitter, t.done_by
ORDER BY tasks DESC, t.done_by
