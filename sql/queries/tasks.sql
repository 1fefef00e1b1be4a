-- Tasks as they are now, newest first.
-- coord: dashboard
-- :tenant      only this fleet; empty: all
-- :status      only in this status; empty: all
-- :capability  only of this capability; empty: all
-- :agent       only submitted or claimed by this agent; empty: all
-- :since       submitted from then on = -infinity
-- :until       submitted before = infinity
-- :open        yes: only those that have not ended; empty: all
-- :limit       at most so many = 50
-- Waiting ends with the first claim, or has not ended; running is that of the last execution.
SELECT
  t.tenant, t.id, t.key, t.status, t.capability, t.priority, t.submitter, t.claimant, t.submitted_at,
  round(t.wait_seconds::numeric, 3)::double precision AS wait_seconds, round(t.run_seconds::numeric, 3)::double precision AS run_seconds,
  t.attempts, t.error, t.message
FROM coord.v_task AS t
WHERE (:'tenant' = '' OR t.tenant = :'tenant')
  AND (:'status' = '' OR t.status = :'status')
  AND (:'capability' = '' OR t.capability = :'capability')
  AND (:'agent' = '' OR t.submitter = :'agent' OR t.claimant = :'agent')
  AND (:'open' = '' OR t.ended_at IS NULL)
  AND t.submitted_at >= :'since'::timestamptz AND t.submitted_at < :'until'::timestamptz
ORDER BY t.submitted_at DESC
LIMIT :'limit'::bigint
