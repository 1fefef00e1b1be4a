-- Did the scheduler's scores say anything? Placements by strategy and quarter of the score, beside what became of the tasks.
-- :tenant  only this fleet; empty: all
-- :since   decided from then on = yesterday
-- :until   decided before = infinity
-- quarter 4 has the highest scores of its strategy. A score that is worth something makes accepted and completed rise, and
-- run_p50 fall, from 1 to 4; correlation is of score and running time over the whole strategy (below 0 is good).
WITH placed AS (
  SELECT
    p.strategy, p.score, p.accepted, p.task_status, p.wait_seconds, p.run_seconds, p.considered,
    ntile(4) OVER (PARTITION BY p.strategy ORDER BY p.score, p.stored_at, p.epoch, p.seq) AS quarter,
    corr(p.score, p.run_seconds) OVER (PARTITION BY p.strategy) AS correlation
  FROM coord.v_placement AS p
  WHERE p.score IS NOT NULL AND (:'tenant' = '' OR p.tenant = :'tenant')
    AND p.stored_at >= :'since'::timestamptz AND p.stored_at < :'until'::timestamptz
)

SELECT
  p.strategy, p.quarter, count(*) AS placed, min(p.score) AS score_least, max(p.score) AS score_most,
  round(avg(p.considered), 1)::double precision AS considered,
  round((count(*) FILTER (WHERE p.accepted))::numeric / count(*), 4)::double precision AS accepted,
  round((count(*) FILTER (WHERE p.task_status = 'completed'))::numeric / count(*), 4)::double precision AS completed,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY p.wait_seconds))::numeric, 3)::double precision AS wait_p50_seconds,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY p.run_seconds))::numeric, 3)::double precision AS run_p50_seconds,
  round(max(p.correlation)::numeric, 4)::double precision AS correlation
FROM placed AS p
GROUP BY p.strategy, p.quarter
ORDER BY p.strategy, p.quarter
