-- Who fails more than others: failures, deaths and rejections of each agent, against the fleet's for the same capability.
-- :tenant    only this fleet; empty: all
-- :since     stored from then on = yesterday
-- :until     stored before = infinity
-- :at_least  only agents with so many claims of the capability = 5
-- factor is its share of claims that ended badly, against that of all who do the same: 2 is twice as often as the others.
-- Of tasks submitted at most a day before.
WITH fact AS (
  SELECT e.tenant, e.agent, e.event, e.key, e.id, CASE WHEN e.event = 'failed' THEN e.data ->> 'error' END AS error
  FROM coord.v_event AS e
  WHERE e.kind = 'task' AND e.event IN ('claimed', 'failed', 'rejected') AND (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
),

agent AS (
  SELECT
    f.tenant, t.capability, f.agent, count(*) FILTER (WHERE f.event = 'claimed') AS claims,
    count(*) FILTER (WHERE f.event <> 'claimed') AS bad, mode() WITHIN GROUP (ORDER BY f.error) AS error_most
  FROM fact AS f
  INNER JOIN coord.v_task AS t
    ON t.tenant = f.tenant AND t.key = f.key AND t.id = f.id AND t.submitted_at >= :'since'::timestamptz - INTERVAL '1 day'
  GROUP BY f.tenant, t.capability, f.agent
),

beside AS (
  SELECT
    a.*, sum(a.claims) OVER same AS claims_all, sum(a.bad) OVER same AS bad_all, count(*) OVER same AS agents
  FROM agent AS a
  WINDOW same AS (PARTITION BY a.tenant, a.capability)
)

SELECT
  b.tenant, b.capability, b.agent, b.claims, b.bad, round(b.bad::numeric / b.claims, 4)::double precision AS share,
  round(b.bad_all / nullif(b.claims_all, 0), 4)::double precision AS share_of_all,
  round((b.bad::numeric / b.claims) / nullif(b.bad_all / nullif(b.claims_all, 0), 0), 2)::double precision AS factor, b.agents, b.error_most
FROM beside AS b
WHERE b.claims >= greatest(:'at_least'::bigint, 1) AND b.bad > 0
ORDER BY factor DESC, b.bad DESC, b.tenant, b.capability, b.agent
