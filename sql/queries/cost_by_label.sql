-- What the fleet spent, by a label: the sum of a telemetry series such as tokens or money.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- :series  which series is the cost = llm.tokens
-- :label   by which label = model
-- A sample's label is what its data says, else what its agent registered; "(none)" where neither has it.
-- Telemetry may be shed: where samples are missing, so is their cost (`coord status` counts them).
WITH labelled AS (
  SELECT
    s.tenant, s.agent, s.value, s.stored_at,
    coalesce(s.data ->> :'label', s.data -> 'labels' ->> :'label', a.labels ->> :'label', '(none)') AS label
  FROM coord.v_metric_sample AS s
  LEFT JOIN coord.v_agent AS a ON a.tenant = s.tenant AND a.agent = s.agent
  WHERE s.series = :'series' AND (:'tenant' = '' OR s.tenant = :'tenant')
    AND s.stored_at >= :'since'::timestamptz AND s.stored_at < :'until'::timestamptz
)

SELECT
  l.label, sum(l.value) AS cost, round((100 * sum(l.value) / nullif(sum(sum(l.value)) OVER (), 0))::numeric, 2)::double precision AS percent,
  count(*) AS samples, count(DISTINCT (l.tenant, l.agent)) AS agents, min(l.stored_at) AS first_at, max(l.stored_at) AS last_at
FROM labelled AS l
GROUP BY l.label
ORDER BY cost DESC, l.label
