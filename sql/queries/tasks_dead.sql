-- Tasks that ended without success, newest first: what `coord dlq redrive` submits again.
-- :tenant      only this fleet; empty: all
-- :status      failed, rejected, expired or cancelled; empty: all but cancelled
-- :capability  only of this capability; empty: all
-- :error       only with this kind of error; empty: all
-- :of          workflows: only tasks of workflows; none: all others; empty: all
-- :since       submitted from then on = -infinity
-- :until       submitted before = infinity
-- :limit       at most so many = 100
-- attempts counts claims, also those whose agent died.
SELECT t.tenant, t.id, t.key, t.status, t.capability, t.submitter, t.ended_at, t.attempts, t.redrives, t.error, t.message
FROM coord.v_task AS t
WHERE (:'tenant' = '' OR t.tenant = :'tenant')
  AND CASE WHEN :'status' = '' THEN t.status IN ('failed', 'rejected', 'expired') ELSE t.status = :'status' AND t.status <> 'completed' END
  AND t.ended_at IS NOT NULL
  AND (:'capability' = '' OR t.capability = :'capability')
  AND (:'error' = '' OR t.error = :'error')
  AND (:'of' = '' OR (t.submitter = '_workflow') = (:'of' = 'workflows'))
  AND t.submitted_at >= :'since'::timestamptz AND t.submitted_at < :'until'::timestamptz
ORDER BY t.ended_at DESC, t.tenant, t.key, t.id
LIMIT :'limit'::bigint
