-- One bounded step of retention of the tables of entities: what ended, and was not heard of for $1 (interval).
-- $2 rows a table. A row that its projector is writing is left for the next step. Raised signals that are to be known
-- for good are stated again in every window. Old is what both clocks, the database's and the broker's as checkpoints have
-- seen it, call old (archive_now.sql): one that jumps ahead ends nobody.
WITH old AS (
  SELECT least(now(), (SELECT max(c.stored_at) FROM coord.checkpoint AS c)) - $1::interval AS at
), task AS (
  DELETE FROM coord.task WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM coord.task
    WHERE submitted_at < (SELECT at FROM old) AND ended_at < (SELECT at FROM old) AND changed_at < (SELECT at FROM old)
    ORDER BY submitted_at LIMIT $2 FOR UPDATE SKIP LOCKED
  )) RETURNING 1
), workflow AS (
  DELETE FROM coord.workflow WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM coord.workflow
    WHERE started_at < (SELECT at FROM old) AND ended_at < (SELECT at FROM old) AND changed_at < (SELECT at FROM old)
    ORDER BY started_at LIMIT $2 FOR UPDATE SKIP LOCKED
  )) RETURNING 1
), handoff AS (
  DELETE FROM coord.handoff WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM coord.handoff
    WHERE offered_at < (SELECT at FROM old) AND ended_at < (SELECT at FROM old) AND changed_at < (SELECT at FROM old)
    ORDER BY offered_at LIMIT $2 FOR UPDATE SKIP LOCKED
  )) RETURNING 1
), signal AS (
  DELETE FROM coord.signal WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM coord.signal
    WHERE waiting = 0 AND changed_at < (SELECT at FROM old) LIMIT $2 FOR UPDATE SKIP LOCKED
  )) RETURNING 1
), lock AS (
  DELETE FROM coord.lock WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM coord.lock
    WHERE holding = 0 AND waiting = 0 AND changed_at < (SELECT at FROM old) LIMIT $2 FOR UPDATE SKIP LOCKED
  )) RETURNING 1
), flag AS (
  DELETE FROM coord.flag WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM coord.flag
    WHERE enabled IS NULL AND changed_at < (SELECT at FROM old) LIMIT $2 FOR UPDATE SKIP LOCKED
  )) RETURNING 1
), agent_registry AS (
  DELETE FROM coord.agent_registry WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM coord.agent_registry
    WHERE instances_there = 0 AND changed_at < (SELECT at FROM old) LIMIT $2 FOR UPDATE SKIP LOCKED
  )) RETURNING 1
), agent AS (
  DELETE FROM coord.agent WHERE ctid = ANY (ARRAY(
    SELECT a.ctid FROM coord.agent AS a
    WHERE a.last_seen < (SELECT at FROM old) AND NOT EXISTS (
      SELECT FROM coord.agent_registry AS r WHERE r.tenant = a.tenant AND r.id = a.agent AND r.instances_there > 0
    )
    LIMIT $2 FOR UPDATE OF a SKIP LOCKED
  )) RETURNING 1
)
SELECT 'task' AS relation, count(*) AS removed FROM task
UNION ALL SELECT 'workflow', count(*) FROM workflow
UNION ALL SELECT 'handoff', count(*) FROM handoff
UNION ALL SELECT 'signal', count(*) FROM signal
UNION ALL SELECT 'lock', count(*) FROM lock
UNION ALL SELECT 'flag', count(*) FROM flag
UNION ALL SELECT 'agent_registry', count(*) FROM agent_registry
UNION ALL SELECT 'agent', count(*) FROM agent
