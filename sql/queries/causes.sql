-- What led to a fact: it, its cause, the cause of that, back to the first.
-- :tenant    whose fleet
-- :key       the ordering key
-- :event_id  of which fact; empty: of the newest of the key
-- :since     stored from then on = -infinity
-- Followed within one key, along causation_id. depth 0 is the fact itself.
WITH RECURSIVE fact AS (
  SELECT e.event_id, e.causation_id, e.stored_at, e.agent, e.kind, e.id, e.event, e.detail, e.epoch, e.seq, e.idx
  FROM coord.v_event AS e
  WHERE e.tenant = :'tenant' AND e.key = :'key' AND e.stored_at >= :'since'::timestamptz
),

chain AS (
  SELECT 0 AS depth, x.*
  FROM (
    SELECT f.* FROM fact AS f
    WHERE :'event_id' = '' OR f.event_id = :'event_id'
    ORDER BY f.epoch DESC, f.seq DESC, f.idx DESC
    LIMIT 1
  ) AS x
  UNION ALL
  SELECT c.depth + 1, f.*
  FROM chain AS c
  INNER JOIN fact AS f ON f.event_id = c.causation_id
  WHERE c.depth < 1000 AND (f.epoch, f.seq, f.idx) < (c.epoch, c.seq, c.idx)
)

SELECT c.depth, c.stored_at, c.agent, c.kind, c.id, c.event, c.detail, c.event_id, c.causation_id
FROM chain AS c
ORDER BY c.depth
