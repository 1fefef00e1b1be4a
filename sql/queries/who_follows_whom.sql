-- Who speaks after whom: how often each agent's fact follows another's within one key.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- :kind    of fact = message
-- :event   of fact = sent
-- :limit   at most so many pairs = 500
-- share is of all that follows the first of the two; seconds is between the two by the log's clock, the median.
WITH said AS (
  SELECT
    e.agent, lead(e.agent) OVER of_key AS next_agent, lead(e.stored_at) OVER of_key - e.stored_at AS pause
  FROM coord.v_event AS e
  WHERE e.kind = :'kind' AND e.event = :'event' AND (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
  WINDOW of_key AS (PARTITION BY e.tenant, e.key ORDER BY e.epoch, e.seq, e.idx)
)

SELECT
  s.agent, s.next_agent, count(*) AS times,
  round(count(*) / sum(count(*)) OVER (PARTITION BY s.agent), 4)::double precision AS share,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM s.pause)))::numeric, 3)::double precision AS p50_seconds
FROM said AS s
WHERE s.next_agent IS NOT NULL
GROUP BY s.agent, s.next_agent
ORDER BY times DESC, s.agent, s.next_agent
LIMIT :'limit'::bigint
