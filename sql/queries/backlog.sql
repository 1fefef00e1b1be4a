-- What is to be done: open tasks of each capability, and how long the oldest has waited.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- waiting are those between two attempts; late are those beyond their deadline.
SELECT
  t.tenant, t.capability, t.priority, count(*) AS open, count(*) FILTER (WHERE t.status = 'queued') AS queued,
  count(*) FILTER (WHERE t.status = 'claimed') AS claimed, count(*) FILTER (WHERE t.status = 'waiting') AS waiting,
  count(*) FILTER (WHERE t.deadline < now()) AS late,
  round(coalesce(max(t.wait_seconds) FILTER (WHERE t.started_first_at IS NULL), 0)::numeric, 1)::double precision AS longest_wait_seconds,
  count(DISTINCT t.claimant) FILTER (WHERE t.status = 'claimed') AS workers
FROM coord.v_task AS t
WHERE t.ended_at IS NULL AND (:'tenant' = '' OR t.tenant = :'tenant')
GROUP BY t.tenant, t.capability, t.priority
ORDER BY queued DESC, t.tenant, t.capability, t.priority
