-- How long what ended had waited: from the submission to the first claim, or from the offer of a handoff to its end. A histogram: percentiles by coord.percentile_of.
SELECT
  s.tenant, -- Whose fleet.
  s.kind, -- task, handoff or workflow.
  s.capability, -- What was asked for: a task's or a handoff's capability, a workflow's name; empty: an agent was named.
  s.priority, -- critical, normal or batch; empty unless it is a task.
  coord.slot(s.wait_s) AS slot, -- Slot of the histogram, eight to a doubling: coord.slot(seconds).
  count(*)::bigint AS ends -- sum: How many ended whose time is in that slot.
FROM coord.outcome AS s
WHERE s.wait_s IS NOT NULL
