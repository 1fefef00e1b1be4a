-- From an agent's publish, and from the log, to the commit of the row that analysts see.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
--
-- Exact, and therefore picky: needs track_commit_timestamp, the table itself (its owner's right)
-- and rows that are not compressed. Rows older than the server keeps commit times for are left
-- out. Three clocks meet: the agent's (publish), the broker's (stored), the database's (commit).
WITH fact AS (
  SELECT e.occurred_at, e.stored_at, pg_xact_commit_timestamp(e.xmin) AS queryable_at
  FROM coord.event AS e
  WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
)
SELECT
  m.leg,
  count(*) AS facts,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY m.ms))::numeric, 2)::double precision AS p50_ms,
  round((percentile_cont(0.99) WITHIN GROUP (ORDER BY m.ms))::numeric, 2)::double precision AS p99_ms,
  round(max(m.ms)::numeric, 2)::double precision AS max_ms
FROM fact AS f
CROSS JOIN LATERAL (
  VALUES
  ('publish to queryable', extract(epoch FROM f.queryable_at - f.occurred_at) * 1000),
  ('stored to queryable', extract(epoch FROM f.queryable_at - f.stored_at) * 1000)
) AS m (leg, ms)
WHERE f.queryable_at IS NOT NULL
GROUP BY m.leg
ORDER BY m.leg
