-- Which agents work as one team: groups that hand work to each other and to nobody else.
-- :tenant    only this fleet; empty: all
-- :since     offered from then on = yesterday
-- :at_least  handoffs, in either direction, that make two agents neighbours = 2
-- :agents    only among so many, the busiest = 100
-- Raise at_least until one large group falls apart into teams: what is left between them are the rare contacts.
-- within is the share of the group's handoffs that stay in it.
WITH RECURSIVE handoff AS (
  SELECT h.from_agent, h.to_agent, count(*) AS handoffs
  FROM coord.v_handoff AS h
  WHERE (:'tenant' = '' OR h.tenant = :'tenant') AND h.stored_at >= :'since'::timestamptz AND h.to_agent IS NOT NULL
  GROUP BY h.from_agent, h.to_agent
),

busiest AS (
  SELECT x.agent
  FROM handoff AS h
  CROSS JOIN LATERAL (VALUES (h.from_agent), (h.to_agent)) AS x (agent)
  GROUP BY x.agent
  ORDER BY sum(h.handoffs) DESC, x.agent
  LIMIT :'agents'::bigint
),

near AS (
  SELECT x.a, x.b
  FROM handoff AS h
  CROSS JOIN LATERAL (VALUES (h.from_agent, h.to_agent), (h.to_agent, h.from_agent)) AS x (a, b)
  WHERE x.a <> x.b AND x.a IN (SELECT b.agent FROM busiest AS b) AND x.b IN (SELECT b.agent FROM busiest AS b)
  GROUP BY x.a, x.b
  HAVING sum(h.handoffs) >= :'at_least'::bigint
),

reach (agent, member) AS (
  SELECT b.agent, b.agent FROM busiest AS b
  UNION
  SELECT r.agent, n.b FROM reach AS r INNER JOIN near AS n ON n.a = r.member
),

team AS (
  SELECT r.agent, min(r.member) AS head FROM reach AS r GROUP BY r.agent
),

inside AS (
  SELECT f.head, sum(h.handoffs) AS handoffs, sum(h.handoffs) FILTER (WHERE f.head = t.head) AS within
  FROM handoff AS h
  INNER JOIN team AS f ON f.agent = h.from_agent
  LEFT JOIN team AS t ON t.agent = h.to_agent
  GROUP BY f.head
)

SELECT
  row_number() OVER (ORDER BY count(*) DESC, t.head) AS team, count(*) AS agents, coalesce(max(i.handoffs), 0)::bigint AS handoffs,
  round(max(i.within / i.handoffs), 4)::double precision AS within,
  string_agg(t.agent, ', ' ORDER BY t.agent) AS members
FROM team AS t
LEFT JOIN inside AS i ON i.head = t.head
GROUP BY t.head
HAVING count(*) > 1
ORDER BY team
