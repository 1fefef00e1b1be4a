-- Is every published fact in the table exactly once?
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- :published  how many facts were published; empty: unknown
-- exactly_once is false when a row is there twice, or when the number is not what was published.
WITH counted AS (
  -- Counted by 64 bits of a hash each, which sort in a tenth of the time: two of ten million are the same once in 400,000 times.
  SELECT
    count(*) AS rows,
    count(DISTINCT hashint8extended(e.seq, (e.epoch::bigint << 32) + e.idx)) AS identities,
    count(DISTINCT hashtextextended(e.event_id, hashtextextended(e.agent, hashtextextended(e.tenant, 0)))) AS event_ids
  FROM coord.v_event AS e
  WHERE (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
)

SELECT
  c.rows, c.identities, c.event_ids, nullif(:'published', '')::bigint AS published,
  c.rows = c.identities AND c.rows = coalesce(nullif(:'published', '')::bigint, c.rows) AS exactly_once
FROM counted AS c
