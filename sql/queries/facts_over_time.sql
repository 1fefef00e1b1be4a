-- Facts by time, kind and event: what the fleet did when.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- :width   of a bucket = 1 minute
-- A bucket in which nothing happened has no row.
SELECT
  time_bucket(:'width'::interval, e.stored_at) AS bucket,
  e.kind,
  e.event,
  count(*) AS facts
FROM coord.v_event AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY bucket, e.kind, e.event
ORDER BY bucket, facts DESC, e.kind, e.event
