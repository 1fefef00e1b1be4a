-- From an agent's publish, and from the log, to the start of the write of the row that analysts see.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
--
-- For every edition and setting; too short by the length of the writing transaction
-- (coord_db_flush_duration_seconds). Three clocks meet: agent's, broker's, database's.
WITH fact AS (
  SELECT
    extract(epoch FROM e.projected_at - e.occurred_at)::double precision * 1000 AS published_ms,
    extract(epoch FROM e.projected_at - e.stored_at)::double precision * 1000 AS stored_ms
  FROM coord.v_event AS e
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
