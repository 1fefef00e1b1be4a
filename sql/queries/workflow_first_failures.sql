-- Where workflows went wrong first: the first task of each that failed, was rejected or expired.
-- :tenant  only this fleet; empty: all
-- :since   started from then on = yesterday
-- :name    only of this definition; empty: all
-- :status  only in this status; all: any = failed
-- :limit   at most so many workflows, the newest = 100
-- The step named by the workflow is where it gave up; the first failure may be another one, an attempt earlier.
SELECT
  w.tenant, w.id, w.name, w.status, w.step AS gave_up_at, f.task, f.event, f.agent, f.error,
  round(extract(epoch FROM f.stored_at - w.started_at), 3)::double precision AS after_seconds, f.stored_at, t.attempts, t.status AS task_status
FROM (
  SELECT v.tenant, v.key, v.id, v.name, v.status, v.step, v.started_at
  FROM coord.v_workflow AS v
  WHERE (:'tenant' = '' OR v.tenant = :'tenant') AND (:'name' = '' OR v.name = :'name')
    AND (:'status' = 'all' OR v.status = :'status') AND v.started_at >= :'since'::timestamptz
  ORDER BY v.started_at DESC, v.tenant, v.id
  LIMIT :'limit'::bigint
) AS w
LEFT JOIN LATERAL (
  SELECT e.id AS task, e.event, e.agent, coalesce(e.data ->> 'error', e.data ->> 'reason') AS error, e.stored_at
  FROM coord.v_event AS e
  WHERE e.tenant = w.tenant AND e.key = w.key AND e.kind = 'task' AND e.event IN ('failed', 'rejected', 'expired')
    AND e.stored_at >= w.started_at
  ORDER BY e.stored_at, e.epoch, e.seq, e.idx
  LIMIT 1
) AS f ON true
LEFT JOIN coord.v_task AS t ON t.tenant = w.tenant AND t.key = w.key AND t.id = f.task
ORDER BY w.started_at DESC, w.tenant, w.id
