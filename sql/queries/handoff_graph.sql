-- Who hands work to whom: the edges of the graph, with how often it is taken and how long that takes.
-- :tenant  only this fleet; empty: all
-- :since   offered from then on = yesterday
-- :limit   at most so many edges = 200
-- share is of all that the offerer hands on; back is how many go the other way: an edge with much of both is a ping-pong.
WITH edge AS (
  SELECT
    h.offerer, h.addressee, count(*) AS handoffs, count(*) FILTER (WHERE h.status = 'accepted') AS accepted,
    sum(h.asked) AS asked, sum(h.escalations)::bigint AS escalations,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY h.seconds) FILTER (WHERE h.status = 'accepted') AS p50
  FROM coord.v_handoff_state AS h
  WHERE (:'tenant' = '' OR h.tenant = :'tenant') AND h.offered_at >= :'since'::timestamptz AND h.addressee IS NOT NULL
  GROUP BY h.offerer, h.addressee
)

SELECT
  e.offerer AS from_agent, e.addressee AS to_agent, e.handoffs,
  round(e.handoffs / sum(e.handoffs) OVER (PARTITION BY e.offerer), 4)::double precision AS share,
  coalesce(b.handoffs, 0) AS back, e.accepted, e.asked::bigint AS asked, e.escalations,
  round(e.p50::numeric, 3)::double precision AS accepted_p50_seconds
FROM edge AS e
LEFT JOIN edge AS b ON b.offerer = e.addressee AND b.addressee = e.offerer
ORDER BY e.handoffs DESC, from_agent, to_agent
LIMIT :'limit'::bigint
