-- Ends of tasks, handoffs and workflows by what was asked for: counts, and sums of waits and runs.
SELECT
  s.tenant, -- Whose fleet.
  s.kind, -- task, handoff or workflow.
  s.capability, -- What was asked for: a task's or a handoff's capability, a workflow's name; empty: an agent was named.
  s.priority, -- critical, normal or batch; empty unless it is a task.
  s.status, -- As what it ended: completed, failed, accepted, …
  count(*)::bigint AS ends, -- sum: How many ended.
  count(s.wait_s)::bigint AS waits, -- sum: How many of them have a wait: were claimed, or are handoffs.
  coalesce(sum(s.wait_s::numeric), 0)::numeric AS wait_seconds, -- sum: Seconds they waited together.
  count(s.run_s)::bigint AS runs, -- sum: How many of them have a run.
  coalesce(sum(s.run_s::numeric), 0)::numeric AS run_seconds, -- sum: Seconds they ran together; a task's last execution.
  sum(s.attempts::bigint)::bigint AS attempts, -- sum: Claims of tasks; of handoffs, who was asked.
  sum(s.failures::bigint)::bigint AS failures -- sum: Executions that failed, or whose agent died; of handoffs, escalations.
FROM coord.outcome AS s
