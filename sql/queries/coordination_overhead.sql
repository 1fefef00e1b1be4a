-- What working together costs, hour by hour: facts of coordination beside facts of work, time waited beside time run.
-- :tenant  only this fleet; empty: all
-- :since   stored, submitted from then on = yesterday
-- :until   stored, submitted before = infinity
-- Facts of coordination are those about tasks, workflows, handoffs, signals, locks, timers, flags and agents;
-- of them, decided are stated by coord's own deciders. worked is the share of the tasks' time that was not waiting.
WITH fact AS (
  SELECT
    time_bucket(INTERVAL '1 hour', e.stored_at) AS hour, count(*) AS facts,
    count(*) FILTER (WHERE e.kind IN ('task', 'workflow', 'handoff', 'signal', 'lock', 'timer', 'flag', 'agent', 'rules')) AS coordination,
    count(*) FILTER (WHERE e.agent LIKE '\_%') AS decided
  FROM coord.v_event AS e
  WHERE (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
  GROUP BY hour
),

task AS (
  SELECT
    time_bucket(INTERVAL '1 hour', t.submitted_at) AS hour, count(*) AS tasks, sum(t.wait_seconds) AS waited, sum(t.run_seconds) AS ran
  FROM coord.v_task AS t
  WHERE (:'tenant' = '' OR t.tenant = :'tenant') AND t.status = 'completed'
    AND t.submitted_at >= :'since'::timestamptz AND t.submitted_at < :'until'::timestamptz
  GROUP BY hour
)

SELECT
  f.hour, f.facts, f.coordination, f.decided, round(f.coordination::numeric / f.facts, 4)::double precision AS share,
  coalesce(t.tasks, 0) AS tasks, round(f.coordination::numeric / t.tasks, 2)::double precision AS facts_per_task,
  round(t.waited::numeric, 3)::double precision AS waited_seconds, round(t.ran::numeric, 3)::double precision AS ran_seconds,
  round((t.ran / nullif(t.ran + t.waited, 0))::numeric, 4)::double precision AS worked
FROM fact AS f
LEFT JOIN task AS t ON t.hour = f.hour
ORDER BY f.hour
