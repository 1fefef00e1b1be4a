-- The log that held the entities of these keys is gone: open ones are lost, signals, locks, flags and
-- registrations are no more. $1 keys, $2 when, null: now. The idx is coord.store.entities.LOST: what a new log says begins it anew.
WITH task AS (
  UPDATE coord.task
  SET status = 'lost', ended_at = coalesce($2::timestamptz, now()), changed_at = coalesce($2::timestamptz, now()), error = 'lost', message = 'the log that held it is gone',
    idx = -2147483648
  WHERE ended_at IS NULL AND key = ANY ($1) RETURNING 1
), workflow AS (
  UPDATE coord.workflow
  SET status = 'lost', ended_at = coalesce($2::timestamptz, now()), changed_at = coalesce($2::timestamptz, now()), error = 'lost', message = 'the log that held it is gone',
    idx = -2147483648
  WHERE ended_at IS NULL AND key = ANY ($1) RETURNING 1
), handoff AS (
  UPDATE coord.handoff
  SET status = 'lost', ended_at = coalesce($2::timestamptz, now()), changed_at = coalesce($2::timestamptz, now()), reason = 'the log that held it is gone',
    idx = -2147483648
  WHERE ended_at IS NULL AND key = ANY ($1) RETURNING 1
), signal AS (
  DELETE FROM coord.signal WHERE key = ANY ($1) RETURNING 1
), lock AS (
  DELETE FROM coord.lock WHERE key = ANY ($1) RETURNING 1
), flag AS (
  DELETE FROM coord.flag WHERE key = ANY ($1) RETURNING 1
), agent_registry AS (
  DELETE FROM coord.agent_registry WHERE key = ANY ($1) RETURNING 1
)
SELECT 'task' AS relation, count(*) AS lost FROM task
UNION ALL SELECT 'workflow', count(*) FROM workflow
UNION ALL SELECT 'handoff', count(*) FROM handoff
UNION ALL SELECT 'signal', count(*) FROM signal
UNION ALL SELECT 'lock', count(*) FROM lock
UNION ALL SELECT 'flag', count(*) FROM flag
UNION ALL SELECT 'agent_registry', count(*) FROM agent_registry
