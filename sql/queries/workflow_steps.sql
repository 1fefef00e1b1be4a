-- The tasks under one ordering key, such as a workflow's steps, in the order in which they were submitted.
-- :tenant  whose fleet
-- :key     the key: a workflow's id, where that has no key of its own
-- :limit   at most so many = 1000
-- A step that is not here has not begun. wait_seconds and run_seconds are as in `tasks`.
SELECT
  t.id, t.status, t.capability, t.priority, t.submitter, t.claimant, t.submitted_at,
  round(t.wait_seconds::numeric, 3)::double precision AS wait_seconds, round(t.run_seconds::numeric, 3)::double precision AS run_seconds,
  t.attempts, t.error, t.message
FROM coord.v_task AS t
WHERE t.tenant = :'tenant' AND t.key = :'key'
ORDER BY t.submitted_at, t.id
LIMIT :'limit'::bigint
