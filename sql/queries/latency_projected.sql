-- From an agent's publish, and from the log, to the start of the write of the row that analysts see.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
--
-- For every edition and setting; too short by the length of the writing transaction
-- (coord_db_flush_duration_seconds). Three clocks meet: agent's, broker's, database's.
WITH fact AS (
  SELECT e.occurred_at, e.stored_at, e.projected_at AS queryable_at
  FROM coord.v_event AS e
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
