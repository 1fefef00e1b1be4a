-- What tasks with each value of a label took: how many, how long they ran, how many attempts.
-- :tenant  only this fleet; empty: all
-- :since   submitted from then on = yesterday
-- :until   submitted before = infinity
-- :label   by which label of the submission = team
-- Labels are what the submitter gave the task; "(none)" are tasks without this one.
SELECT
  coalesce(e.data -> 'labels' ->> :'label', '(none)') AS label, count(*) AS tasks,
  count(*) FILTER (WHERE t.status = 'completed') AS completed, count(*) FILTER (WHERE t.status IN ('failed', 'rejected', 'expired')) AS dead,
  sum(t.attempts) AS attempts, round(coalesce(sum(t.run_seconds), 0)::numeric, 3)::double precision AS run_seconds,
  round((100 * sum(t.run_seconds) / nullif(sum(sum(t.run_seconds)) OVER (), 0))::numeric, 2)::double precision AS percent,
  round((percentile_cont(0.95) WITHIN GROUP (ORDER BY t.run_seconds))::numeric, 3)::double precision AS run_p95_seconds
FROM coord.v_event AS e
INNER JOIN coord.v_task AS t
  ON t.tenant = e.tenant AND t.key = e.key AND t.id = e.id AND t.submitted_at >= :'since'::timestamptz
WHERE e.kind = 'task' AND e.event = 'submitted' AND NOT coalesce(e.data ? 'restated', false)
  AND (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
GROUP BY 1
ORDER BY run_seconds DESC, label
