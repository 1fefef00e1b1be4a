-- Workflows as they are now, newest first.
-- coord: dashboard
-- :tenant     only this fleet; empty: all
-- :status     only in this status; empty: all
-- :name       only of this definition; empty: all
-- :submitter  only started by this agent; empty: all
-- :since      started from then on = -infinity
-- :until      started before = infinity
-- :open       yes: only those that have not ended; empty: all
-- :limit      at most so many = 50
-- tasks counts tasks submitted so far, not steps; step is where it failed.
SELECT
  w.tenant, w.id, w.name, w.version, w.status, w.submitter, w.started_at, round(w.seconds::numeric, 3)::double precision AS seconds,
  w.tasks, w.tasks_open, w.step, w.error, w.message, w.parent, w.rerun_of
FROM coord.v_workflow AS w
WHERE (:'tenant' = '' OR w.tenant = :'tenant')
  AND (:'status' = '' OR w.status = :'status')
  AND (:'name' = '' OR w.name = :'name')
  AND (:'submitter' = '' OR w.submitter = :'submitter')
  AND (:'open' = '' OR w.ended_at IS NULL)
  AND w.started_at >= :'since'::timestamptz AND w.started_at < :'until'::timestamptz
ORDER BY w.started_at DESC
LIMIT :'limit'::bigint
