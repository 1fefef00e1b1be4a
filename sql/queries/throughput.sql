-- How many facts came in all, how fast on average and in the busiest second.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- The average is over the seconds from the first fact to the last.
WITH per_second AS (
  SELECT time_bucket(INTERVAL '1 second', e.stored_at) AS second, count(*) AS facts
  FROM coord.v_event AS e
  WHERE (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
  GROUP BY second
)
SELECT
  coalesce(sum(p.facts), 0)::bigint AS facts,
  coalesce(extract(epoch FROM max(p.second) - min(p.second)) + 1, 0)::double precision AS seconds,
  round(coalesce(sum(p.facts) / (extract(epoch FROM max(p.second) - min(p.second)) + 1), 0), 1)::double precision
    AS facts_per_second,
  coalesce(max(p.facts), 0)::bigint AS busiest_second
FROM per_second AS p
