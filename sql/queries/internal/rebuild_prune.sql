-- What retention has removed from the live tables (remove_ended) is not made anew: conditions as there, and gone there.
-- $1 how long it keeps what has ended.
WITH old AS (
  SELECT least(now(), (SELECT max(c.stored_at) FROM coord.checkpoint AS c)) - $1::interval AS at
), task AS (
  DELETE FROM coord_rebuild.task AS r
  WHERE r.submitted_at < (SELECT at FROM old) AND r.ended_at < (SELECT at FROM old) AND r.changed_at < (SELECT at FROM old)
    AND NOT EXISTS (SELECT FROM coord.task AS l WHERE (l.tenant, l.key, l.id) = (r.tenant, r.key, r.id)) RETURNING 1
), workflow AS (
  DELETE FROM coord_rebuild.workflow AS r
  WHERE r.started_at < (SELECT at FROM old) AND r.ended_at < (SELECT at FROM old) AND r.changed_at < (SELECT at FROM old)
    AND NOT EXISTS (SELECT FROM coord.workflow AS l WHERE (l.tenant, l.key, l.id) = (r.tenant, r.key, r.id)) RETURNING 1
), handoff AS (
  DELETE FROM coord_rebuild.handoff AS r
  WHERE r.offered_at < (SELECT at FROM old) AND r.ended_at < (SELECT at FROM old) AND r.changed_at < (SELECT at FROM old)
    AND NOT EXISTS (SELECT FROM coord.handoff AS l WHERE (l.tenant, l.key, l.id) = (r.tenant, r.key, r.id)) RETURNING 1
), signal AS (
  DELETE FROM coord_rebuild.signal AS r
  WHERE r.waiting = 0 AND r.changed_at < (SELECT at FROM old)
    AND NOT EXISTS (SELECT FROM coord.signal AS l WHERE (l.tenant, l.key, l.id) = (r.tenant, r.key, r.id)) RETURNING 1
), lock AS (
  DELETE FROM coord_rebuild.lock AS r
  WHERE r.holding = 0 AND r.waiting = 0 AND r.changed_at < (SELECT at FROM old)
    AND NOT EXISTS (SELECT FROM coord.lock AS l WHERE (l.tenant, l.key, l.id) = (r.tenant, r.key, r.id)) RETURNING 1
), flag AS (
  DELETE FROM coord_rebuild.flag AS r
  WHERE r.enabled IS NULL AND r.changed_at < (SELECT at FROM old)
    AND NOT EXISTS (SELECT FROM coord.flag AS l WHERE (l.tenant, l.key, l.id) = (r.tenant, r.key, r.id)) RETURNING 1
), agent_registry AS (
  DELETE FROM coord_rebuild.agent_registry AS r
  WHERE r.instances_there = 0 AND r.changed_at < (SELECT at FROM old)
    AND NOT EXISTS (SELECT FROM coord.agent_registry AS l WHERE (l.tenant, l.key, l.id) = (r.tenant, r.key, r.id)) RETURNING 1
), agent AS (
  DELETE FROM coord_rebuild.agent AS r
  WHERE r.last_seen < (SELECT at FROM old)
    AND NOT EXISTS (SELECT FROM coord.agent AS l WHERE (l.tenant, l.agent) = (r.tenant, r.agent)) RETURNING 1
)
SELECT 'task' AS relation, count(*) AS pruned FROM task
UNION ALL SELECT 'workflow' AS relation, count(*) AS pruned FROM workflow
UNION ALL SELECT 'handoff' AS relation, count(*) AS pruned FROM handoff
UNION ALL SELECT 'signal' AS relation, count(*) AS pruned FROM signal
UNION ALL SELECT 'lock' AS relation, count(*) AS pruned FROM lock
UNION ALL SELECT 'flag' AS relation, count(*) AS pruned FROM flag
UNION ALL SELECT 'agent_registry' AS relation, count(*) AS pruned FROM agent_registry
UNION ALL SELECT 'agent', count(*) FROM agent
