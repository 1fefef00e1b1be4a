-- How many tasks kept their promise: ended in time, began in time, ran in time, by capability.
-- :tenant  only this fleet; empty: all
-- :since   submitted from then on = yesterday
-- :until   submitted before = infinity
-- :wait_s  promised to begin within so many seconds = 60
-- :run_s   promised to run no longer than so many seconds = 600
-- deadline_kept is of the tasks that had a deadline. Open tasks count once their promise is broken, and not before.
WITH task AS (
  SELECT
    t.capability, t.status = 'completed' AS good, t.ended_at IS NOT NULL AS ended,
    t.wait_seconds > :'wait_s'::double precision AS late,
    t.started_first_at IS NOT NULL OR t.ended_at IS NOT NULL AS begun,
    t.run_seconds > :'run_s'::double precision AS long,
    CASE
      WHEN t.deadline IS NULL THEN NULL
      WHEN t.ended_at IS NOT NULL THEN t.status = 'completed' AND t.ended_at <= t.deadline
      WHEN t.deadline < now() THEN false
    END AS in_time
  FROM coord.v_task AS t
  WHERE (:'tenant' = '' OR t.tenant = :'tenant')
    AND t.submitted_at >= :'since'::timestamptz AND t.submitted_at < :'until'::timestamptz
)

SELECT
  t.capability, count(*) AS tasks, count(*) FILTER (WHERE t.ended) AS ended,
  round((count(*) FILTER (WHERE t.good))::numeric / nullif(count(*) FILTER (WHERE t.ended), 0), 4)::double precision AS completed,
  count(t.in_time) AS with_deadline,
  round((count(*) FILTER (WHERE t.in_time))::numeric / nullif(count(t.in_time), 0), 4)::double precision AS deadline_kept,
  round((count(*) FILTER (WHERE NOT t.late AND t.begun))::numeric / nullif(count(*) FILTER (WHERE t.begun OR t.late), 0), 4)::double precision AS wait_kept,
  round((count(*) FILTER (WHERE NOT t.long AND t.ended))::numeric / nullif(count(*) FILTER (WHERE (t.ended AND t.long IS NOT NULL) OR t.long), 0), 4)::double precision AS run_kept
FROM task AS t
GROUP BY t.capability
ORDER BY tasks DESC, t.capability
