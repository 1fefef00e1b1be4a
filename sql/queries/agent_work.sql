-- What each agent got done: tasks, how long they ran, how many it failed, the share of the time that it worked.
-- :tenant  only this fleet; empty: all
-- :since   submitted from then on = yesterday
-- :limit   at most so many, the busiest = 200
-- The last claimant of a task counts. busy is its running time against the time since then, or since its first of these
-- tasks where that was later; above 1 where it runs several at a time.
SELECT
  t.tenant, t.claimant AS agent, count(*) AS tasks, count(*) FILTER (WHERE t.status = 'completed') AS completed,
  count(*) FILTER (WHERE t.status IN ('failed', 'rejected', 'expired')) AS dead, sum(t.failures) AS failures, sum(t.deaths) AS deaths,
  count(DISTINCT t.capability) AS capabilities, round(coalesce(sum(t.run_seconds), 0)::numeric, 3)::double precision AS run_seconds,
  round((percentile_cont(0.95) WITHIN GROUP (ORDER BY t.run_seconds))::numeric, 3)::double precision AS run_p95_seconds,
  round((sum(t.run_seconds) / nullif(extract(epoch FROM now() - min(t.claimed_at)), 0)::double precision)::numeric, 4)::double precision AS busy,
  max(t.ended_at) AS last_at
FROM coord.v_task AS t
WHERE t.claimant IS NOT NULL AND (:'tenant' = '' OR t.tenant = :'tenant') AND t.submitted_at >= :'since'::timestamptz
GROUP BY t.tenant, t.claimant
ORDER BY run_seconds DESC, t.tenant, agent
LIMIT :'limit'::bigint
