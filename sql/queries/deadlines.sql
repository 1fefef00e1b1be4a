-- Which open tasks are about to miss their deadline, the next first.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :within  how far ahead = 10 minutes
-- :limit   at most so many = 50
-- progress is 0 to 1, as the claimant last said; left below 0 is late already, and will be expired.
SELECT
  t.tenant, t.id, t.key, t.capability, t.status, t.claimant, t.deadline,
  round(extract(epoch FROM t.deadline - now()), 1)::double precision AS left_seconds, t.attempts, t.progress, t.error
FROM coord.v_task AS t
WHERE t.ended_at IS NULL AND t.deadline < now() + :'within'::interval AND (:'tenant' = '' OR t.tenant = :'tenant')
ORDER BY t.deadline, t.tenant, t.key, t.id
LIMIT :'limit'::bigint
