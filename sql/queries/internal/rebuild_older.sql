-- Whether the tables know of anything before $1, which is when the history begins.
SELECT EXISTS (SELECT FROM coord.agent WHERE first_seen < $1) OR EXISTS (SELECT FROM coord.task WHERE submitted_at < $1)
  OR EXISTS (SELECT FROM coord.workflow WHERE started_at < $1) OR EXISTS (SELECT FROM coord.handoff WHERE offered_at < $1)
