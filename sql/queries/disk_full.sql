-- When the disk is full, if the fleet goes on as in the last days.
-- :capacity_gib  what the database may take, GiB = 100
-- :days          whole days to judge by = 14
-- :retain_days   after how many days rows are dropped (ages.retain_days) = 30
-- The rate is the mean of those days, early and late come from their mean plus and minus two standard errors. full_at is
-- null where it is never: because what is dropped makes room for what comes (steady_bytes fits), or nothing comes.
WITH day AS (
  SELECT r.bucket, sum(r.facts) AS facts
  FROM coord.v_fact_rate_1d AS r
  WHERE r.bucket >= time_bucket(INTERVAL '1 day', now()) - make_interval(days => :'days'::integer)
    AND r.bucket < time_bucket(INTERVAL '1 day', now())
  GROUP BY r.bucket
),

rate AS (
  SELECT
    count(*) AS days, avg(d.facts) AS facts,
    2 * coalesce(stddev_samp(d.facts), 0) / sqrt(greatest(count(*), 1)) AS doubt
  FROM day AS d
),

room AS (
  SELECT
    sum(s.bytes) AS bytes,
    sum(s.bytes) / nullif(max(s.rows_about) FILTER (WHERE s.relation = 'event'), 0) AS per_fact,
    :'capacity_gib'::numeric * 1024 * 1024 * 1024 AS capacity
  FROM coord.v_storage AS s
),

guess AS (
  SELECT
    g.what, o.bytes, o.capacity, r.days, g.facts, o.per_fact,
    g.facts * o.per_fact AS per_day, g.facts * o.per_fact * :'retain_days'::numeric AS steady
  FROM rate AS r
  CROSS JOIN room AS o
  CROSS JOIN LATERAL (
    VALUES ('early', r.facts + r.doubt), ('likely', r.facts), ('late', greatest(r.facts - r.doubt, 0))
  ) AS g (what, facts)
)

SELECT
  g.what, g.days AS days_judged, g.bytes::bigint AS bytes, g.capacity::bigint AS capacity_bytes,
  round(g.per_fact, 1)::double precision AS bytes_per_fact, round(g.facts)::bigint AS facts_per_day,
  g.per_day::bigint AS bytes_per_day, g.steady::bigint AS steady_bytes,
  CASE
    WHEN g.bytes >= g.capacity THEN now()
    WHEN greatest(g.steady, g.bytes) > g.capacity AND g.per_day > 0
      THEN now() + make_interval(secs => least((g.capacity - g.bytes) / g.per_day * 86400, 3e9)::double precision)
  END AS full_at
FROM guess AS g
ORDER BY g.facts DESC, g.what
