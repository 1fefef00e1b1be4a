-- What working together costs, hour by hour: facts of coordination beside facts of work, time waited beside time run.
-- :tenant  only this fleet; empty: all
-- :since   hours from then on, and tasks submitted then = yesterday
-- :until   hours before then = infinity
-- Facts of coordination are those about tasks, workflows, handoffs, signals, locks, timers, flags and agents;
-- of them, decided are stated by coord's own deciders. worked is the share of the tasks' time that was not waiting.
WITH fact AS (
  SELECT
    r.bucket AS hour, sum(r.facts) AS facts,
    coalesce(sum(r.facts) FILTER (
      WHERE r.kind IN ('task', 'workflow', 'handoff', 'signal', 'lock', 'timer', 'flag', 'agent', 'rules')
    ), 0) AS coordination,
    coalesce(sum(r.facts) FILTER (WHERE r.agent LIKE '\_%'), 0) AS decided
  FROM coord.v_fact_rate_1h AS r
  WHERE (:'tenant' = '' OR r.tenant = :'tenant')
    AND r.bucket >= time_bucket(INTERVAL '1 hour', :'since'::timestamptz) AND r.bucket < :'until'::timestamptz
  GROUP BY r.bucket
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
  f.hour, f.facts::bigint AS facts, f.coordination::bigint AS coordination, f.decided::bigint AS decided,
  round(f.coordination / f.facts, 4)::double precision AS share,
  coalesce(t.tasks, 0) AS tasks, round(f.coordination / t.tasks, 2)::double precision AS facts_per_task,
  round(t.waited::numeric, 3)::double precision AS waited_seconds, round(t.ran::numeric, 3)::double precision AS ran_seconds,
  round((t.ran / nullif(t.ran + t.waited, 0))::numeric, 4)::double precision AS worked
FROM fact AS f
LEFT JOIN task AS t ON t.hour = f.hour
ORDER BY f.hour
