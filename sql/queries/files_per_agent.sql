-- Files each agent listed and analysed, busiest first.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- For fleets that read source code, as `coord demo` does.
SELECT
  e.agent,
  count(*) FILTER (WHERE e.event = 'listed') AS listed,
  count(*) FILTER (WHERE e.event = 'analysed') AS analysed,
  coalesce(sum((e.data ->> 'lines')::bigint) FILTER (WHERE e.event = 'analysed'), 0)::bigint AS lines,
  coalesce(sum(jsonb_array_length(e.data -> 'functions')) FILTER (WHERE e.event = 'analysed'), 0)::bigint AS functions
FROM coord.v_event AS e
WHERE e.kind = 'file' AND e.event IN ('listed', 'analysed')
  AND (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY e.agent
ORDER BY analysed DESC, listed DESC, e.agent
