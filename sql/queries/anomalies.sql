-- Which hours were not as usual: facts of each kind and event, against the same hour of other days.
-- :tenant  only this fleet; empty: all
-- :since   hours from then on are judged = yesterday
-- :until   hours before then are judged = now
-- :days    the usual is taken from so many days before = 28
-- :score   at least so far from usual = 4
-- :limit   at most so many, the strangest first = 50
-- usual is the median of the same hour of the day, spread the median distance from it (of normal noise 0.67 of a standard
-- deviation; at least 5 % of usual, and 1). score is the distance in spreads: 4 is about 2.7 standard deviations. Judged are
-- hours that are over, and kinds with at least four days to compare with; an hour without any facts counts as 0.
WITH hourly AS (
  SELECT r.bucket AS hour, r.kind, r.event, sum(r.facts)::bigint AS facts
  FROM coord.v_fact_rate_1h AS r
  WHERE (:'tenant' = '' OR r.tenant = :'tenant')
    AND r.bucket >= time_bucket(INTERVAL '1 hour', :'since'::timestamptz - make_interval(days => :'days'::integer))
    AND r.bucket < time_bucket(INTERVAL '1 hour', least(:'until'::timestamptz, now()))
  GROUP BY r.bucket, r.kind, r.event
),

known AS (
  SELECT h.kind, h.event, min(h.hour) AS first_hour FROM hourly AS h GROUP BY h.kind, h.event
),

filled AS (
  SELECT g.hour, k.kind, k.event, coalesce(h.facts, 0) AS facts, g.hour >= time_bucket(INTERVAL '1 hour', :'since'::timestamptz) AS judged
  FROM known AS k
  CROSS JOIN LATERAL generate_series(
    k.first_hour, time_bucket(INTERVAL '1 hour', least(:'until'::timestamptz, now())) - INTERVAL '1 hour', INTERVAL '1 hour'
  ) AS g (hour)
  LEFT JOIN hourly AS h ON h.hour = g.hour AND h.kind = k.kind AND h.event = k.event
),

usual AS (
  SELECT
    f.kind, f.event, extract(hour FROM f.hour AT TIME ZONE 'UTC') AS of_day, count(*) AS days,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY f.facts) AS median
  FROM filled AS f
  WHERE NOT f.judged
  GROUP BY f.kind, f.event, of_day
  HAVING count(*) >= 4
),

spread AS (
  SELECT
    u.kind, u.event, u.of_day, u.days, u.median,
    greatest(percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(f.facts - u.median)), 0.05 * u.median, 1) AS spread
  FROM usual AS u
  INNER JOIN filled AS f
    ON f.kind = u.kind AND f.event = u.event AND extract(hour FROM f.hour AT TIME ZONE 'UTC') = u.of_day AND NOT f.judged
  GROUP BY u.kind, u.event, u.of_day, u.days, u.median
)

SELECT
  f.hour, f.kind, f.event, f.facts, s.median AS usual, round(s.spread::numeric, 2)::double precision AS spread,
  round(((f.facts - s.median) / s.spread)::numeric, 2)::double precision AS score, s.days
FROM filled AS f
INNER JOIN spread AS s ON s.kind = f.kind AND s.event = f.event AND s.of_day = extract(hour FROM f.hour AT TIME ZONE 'UTC')
WHERE f.judged AND abs(f.facts - s.median) / s.spread >= :'score'::double precision
ORDER BY abs(f.facts - s.median) / s.spread DESC, f.hour, f.kind, f.event
LIMIT :'limit'::bigint
