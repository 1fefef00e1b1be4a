-- Whose tasks went on elsewhere because their agent died, hung or overran, and to whom.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- :lost_at when the agent was lost, for how long it took; empty: from the release of its claim
-- max_ms is how long, at worst, nobody had the task.
WITH e AS (
  SELECT v.tenant, v.key, v.id, v.event, v.agent, v.detail, v.stored_at, v.data
  FROM coord.v_event AS v
  WHERE v.kind = 'task' AND v.event IN ('claimed', 'released')
  AND (:'tenant' = '' OR v.tenant = :'tenant')
  AND v.stored_at >= :'since'::timestamptz AND v.stored_at < :'until'::timestamptz
)
SELECT
  held.agent AS from_agent,
  taken.agent AS to_agent,
  count(*) AS tasks,
  mode() WITHIN GROUP (ORDER BY coalesce(lost.data ->> 'reason', 'gone')) AS commonest_reason,
  round(max(extract(epoch FROM
    taken.stored_at - coalesce(nullif(:'lost_at', '')::timestamptz, lost.stored_at)) * 1000)::numeric, 1
  )::double precision AS max_ms
FROM e AS lost
INNER JOIN e AS held
  ON held.tenant = lost.tenant AND held.key = lost.key AND held.id = lost.id
  AND held.event = 'claimed' AND held.detail = lost.detail
INNER JOIN e AS taken
  ON taken.tenant = lost.tenant AND taken.key = lost.key AND taken.id = lost.id
  AND taken.event = 'claimed' AND taken.detail = (lost.detail::bigint + 1)::text
WHERE lost.event = 'released'
GROUP BY held.agent, taken.agent
ORDER BY tasks DESC, from_agent, to_agent
