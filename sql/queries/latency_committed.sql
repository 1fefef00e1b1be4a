-- From an agent's publish, and from the log, to the commit of the row that analysts see.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
--
-- Exact, and therefore picky: needs track_commit_timestamp, the table itself (its owner's right)
-- and rows that are not compressed. Rows older than the server keeps commit times for are left
-- out. Three clocks meet: the agent's (publish), the broker's (stored), the database's (commit).
WITH fact AS (
  SELECT
    extract(epoch FROM pg_xact_commit_timestamp(e.xmin) - e.occurred_at)::double precision * 1000 AS published_ms,
    extract(epoch FROM pg_xact_commit_timestamp(e.xmin) - e.stored_at)::double precision * 1000 AS stored_ms
  FROM coord.event AS e
  WHERE (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
),

-- One sort each: the percentiles and the greatest of a leg come from the same one.
spread AS (
  SELECT
    count(f.stored_ms) AS facts,
    percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY f.published_ms) AS published,
    percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY f.stored_ms) AS stored
  FROM fact AS f
)

SELECT
  m.leg,
  s.facts,
  round(m.ms[1]::numeric, 2)::double precision AS p50_ms,
  round(m.ms[2]::numeric, 2)::double precision AS p99_ms,
  round(m.ms[3]::numeric, 2)::double precision AS max_ms
FROM spread AS s
CROSS JOIN LATERAL (VALUES ('publish to queryable', s.published), ('stored to queryable', s.stored)) AS m (leg, ms)
WHERE s.facts > 0
ORDER BY m.leg
