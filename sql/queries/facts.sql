-- Every fact, in the order in which the log stored them: to export.
-- coord: export
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- :kind    only of this kind; empty: all
-- :limit   at most so many; empty: all of them
-- Of any size: `-o parquet --to FILE` holds a batch in memory at a time.
SELECT
  e.stored_at, e.tenant, e.agent, e.key, e.kind, e.id, e.event, e.detail, e.data, e.occurred_at, e.event_id, e.type, e.schema,
  e.correlation_id, e.causation_id, e.traceparent, e.epoch, e.seq, e.idx
FROM coord.v_event AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant') AND (:'kind' = '' OR e.kind = :'kind')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
ORDER BY e.stored_at, e.epoch, e.seq, e.idx
LIMIT nullif(:'limit', '')::bigint
