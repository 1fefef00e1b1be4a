-- The newest facts, newest first.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- :limit   how many = 20
-- By the log's clock.
SELECT e.stored_at, e.agent, e.key, e.kind, e.id, e.event, e.detail, e.data, e.epoch, e.seq, e.idx
FROM coord.v_event AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
ORDER BY e.stored_at DESC, e.epoch DESC, e.seq DESC, e.idx DESC
LIMIT :'limit'::integer
