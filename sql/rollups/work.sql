-- What each agent had to do with what ended: tasks it had the last claim of, handoffs it accepted.
SELECT
  s.tenant, -- Whose fleet.
  s.agent, -- Who had the last claim, or accepted.
  s.kind, -- task or handoff.
  s.status, -- As what it ended: completed, failed, accepted, …
  count(*)::bigint AS ends, -- sum: How many ended.
  count(s.run_s)::bigint AS runs, -- sum: How many of them have a run.
  coalesce(sum(s.run_s::numeric), 0)::numeric AS run_seconds, -- sum: Seconds they ran together; a task's last execution.
  sum(s.attempts::bigint)::bigint AS attempts, -- sum: Claims of the tasks, by whomever; of handoffs, who was asked.
  sum(s.failures::bigint)::bigint AS failures -- sum: Executions that failed, or whose agent died; of handoffs, escalations.
FROM coord.outcome AS s
WHERE s.agent <> ''
