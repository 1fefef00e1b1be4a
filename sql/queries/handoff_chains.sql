-- The longest chains of handoffs: work that went from one to the next, and on, without coming to rest.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- :limit   how many = 20
-- A chain is a run of handoffs of one key, each offered by whom the one before it asked.
-- first_id and last_id are its first and its last handoff; agents counts how many different ones took part.
WITH step AS (
  SELECT
    h.tenant, h.key, h.id, h.from_agent, h.to_agent, h.stored_at, h.epoch, h.seq,
    coalesce(h.from_agent <> lag(h.to_agent) OVER of_key, true) AS begins
  FROM coord.v_handoff AS h
  WHERE (:'tenant' = '' OR h.tenant = :'tenant') AND h.to_agent IS NOT NULL
    AND h.stored_at >= :'since'::timestamptz AND h.stored_at < :'until'::timestamptz
  WINDOW of_key AS (PARTITION BY h.tenant, h.key ORDER BY h.epoch, h.seq)
),

numbered AS (
  SELECT s.*, count(*) FILTER (WHERE s.begins) OVER (PARTITION BY s.tenant, s.key ORDER BY s.epoch, s.seq) AS chain
  FROM step AS s
),

longest AS (
  SELECT n.tenant, n.key, n.chain, count(*) AS handoffs, min(n.stored_at) AS first_at, max(n.stored_at) AS last_at
  FROM numbered AS n
  GROUP BY n.tenant, n.key, n.chain
  ORDER BY count(*) DESC, n.tenant, n.key, n.chain
  LIMIT :'limit'::bigint
)

SELECT
  l.tenant, l.key, l.handoffs, w.agents, w.first_id, w.last_id, l.first_at, l.last_at, w.path
FROM longest AS l
CROSS JOIN LATERAL (
  SELECT
    count(DISTINCT x.agent) AS agents, (array_agg(n.id ORDER BY n.epoch, n.seq))[1] AS first_id,
    (array_agg(n.id ORDER BY n.epoch DESC, n.seq DESC))[1] AS last_id,
    string_agg(x.agent, ' > ' ORDER BY n.epoch, n.seq, x.place) AS path
  FROM numbered AS n
  -- All whom each step asked, and before the first of them who offered it.
  CROSS JOIN LATERAL (VALUES (0, n.from_agent), (1, n.to_agent)) AS x (place, agent)
  WHERE n.tenant = l.tenant AND n.key = l.key AND n.chain = l.chain AND (x.place = 1 OR n.begins)
) AS w
ORDER BY l.handoffs DESC, l.tenant, l.key, l.chain
