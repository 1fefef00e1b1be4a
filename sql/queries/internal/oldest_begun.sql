-- When the oldest task, workflow or handoff that the tables know began; null: they know none.
SELECT least(
  (SELECT min(submitted_at) FROM coord.task),
  (SELECT min(started_at) FROM coord.workflow),
  (SELECT min(offered_at) FROM coord.handoff)
)
