-- Facts of the last whole days, the oldest first, and what a fact takes, its share of all tables with it.
-- $1: how many days
-- The first day of all is not whole; a day on which nothing was said is a day too.
WITH bound AS (
  SELECT
    greatest(
      time_bucket(INTERVAL '1 day', now()) - make_interval(days => $1),
      (SELECT min(f.bucket) + INTERVAL '1 day' FROM coord.v_fact_rate_1d AS f)
    ) AS first,
    time_bucket(INTERVAL '1 day', now()) - INTERVAL '1 day' AS last
),

size AS (
  SELECT (sum(s.bytes) / nullif(max(s.rows_about) FILTER (WHERE s.relation = 'event'), 0))::double precision AS bytes_per_fact
  FROM coord.v_storage AS s
)

SELECT d.day, coalesce(sum(r.facts), 0)::bigint AS facts, z.bytes_per_fact
FROM bound AS b
CROSS JOIN size AS z
CROSS JOIN LATERAL generate_series(b.first, b.last, INTERVAL '1 day') AS d (day)
LEFT JOIN coord.v_fact_rate_1d AS r ON r.bucket = d.day AND r.bucket >= b.first
WHERE EXISTS (SELECT FROM coord.v_fact_rate_1d)
GROUP BY d.day, z.bytes_per_fact
ORDER BY d.day
