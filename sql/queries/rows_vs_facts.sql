-- Is every published fact in the table exactly once?
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- :published  how many facts were published; empty: unknown
-- exactly_once is false when a row is there twice, or when the number is not what was published.
SELECT
  count(*) AS rows,
  count(DISTINCT (e.epoch, e.seq, e.idx)) AS identities,
  count(DISTINCT (e.tenant, e.agent, e.event_id)) AS event_ids,
  nullif(:'published', '')::bigint AS published,
  count(*) = count(DISTINCT (e.epoch, e.seq, e.idx))
  AND count(*) = coalesce(nullif(:'published', '')::bigint, count(*)) AS exactly_once
FROM coord.v_event AS e
WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
