-- The tasks that ran longest.
-- :tenant  only this fleet; empty: all
-- :since   submitted from then on = -infinity
-- :limit   at most so many = 20
-- Tasks that run now count with what they ran so far.
SELECT t.tenant, t.id, t.key, t.capability, t.status, t.claimant, t.wait_seconds, t.run_seconds, t.attempts
FROM coord.v_task AS t
WHERE (:'tenant' = '' OR t.tenant = :'tenant') AND t.submitted_at >= :'since'::timestamptz AND t.run_seconds IS NOT NULL
ORDER BY t.run_seconds DESC, t.tenant, t.key, t.id
LIMIT :'limit'::bigint
