-- How often each agent handed work to each other one, and the most frequent reason.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- Each who was asked counts, also those who declined; `handoff_graph` counts handoffs as they ended.
SELECT
  e.from_agent,
  e.to_agent,
  count(*) AS handoffs,
  mode() WITHIN GROUP (ORDER BY e.reason) AS commonest_reason
FROM coord.v_handoff AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY e.from_agent, e.to_agent
ORDER BY handoffs DESC, e.from_agent, e.to_agent
