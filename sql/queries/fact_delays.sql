-- Whose facts come late: from when the agent says it happened to the log, and from the log to the tables.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- :limit   at most so many agents, the latest first = 50
-- Below 0, the agent's clock is ahead of the log's; the same large number at p50 and p99 is a clock that is behind, a p99
-- far above p50 is an agent that spools or publishes in bursts.
SELECT
  e.tenant, e.agent, count(*) AS facts,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM e.stored_at - e.occurred_at)::double precision))::numeric, 3)::double precision AS to_log_p50_seconds,
  round((percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM e.stored_at - e.occurred_at)::double precision))::numeric, 3)::double precision AS to_log_p99_seconds,
  round(extract(epoch FROM min(e.stored_at - e.occurred_at)), 3)::double precision AS to_log_least_seconds,
  round(extract(epoch FROM max(e.projected_at - e.stored_at)), 3)::double precision AS to_tables_most_seconds
FROM coord.v_event AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY e.tenant, e.agent
ORDER BY to_log_p99_seconds DESC, e.tenant, e.agent
LIMIT :'limit'::bigint
