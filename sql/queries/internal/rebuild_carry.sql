-- Rows of what began before the history are taken as they are, into the tables that are made: how many. $1 from when on
-- it goes; $2 whether there was anything before: then what was begun again, or changed, may be older than it looks, and a
-- signal, lock, flag or registration that the history does not make is.
WITH task AS (
  INSERT INTO coord_rebuild.task SELECT l.* FROM coord.task AS l
  WHERE l.submitted_at < $1 OR l.started_first_at < $1 OR (l.redrives > 0 AND $2)
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), workflow AS (
  INSERT INTO coord_rebuild.workflow SELECT l.* FROM coord.workflow AS l WHERE l.started_at < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), handoff AS (
  INSERT INTO coord_rebuild.handoff SELECT l.* FROM coord.handoff AS l WHERE l.offered_at < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), signal AS (
  INSERT INTO coord_rebuild.signal SELECT l.* FROM coord.signal AS l WHERE $2
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), lock AS (
  INSERT INTO coord_rebuild.lock SELECT l.* FROM coord.lock AS l WHERE $2 OR l.changed_at < $1 OR EXISTS (
    SELECT FROM jsonb_each(l.requests) AS w WHERE (w.value ->> 'since')::float8 < extract(epoch FROM $1))
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), flag AS (
  INSERT INTO coord_rebuild.flag SELECT l.* FROM coord.flag AS l WHERE $2 OR l.set_at < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), agent_registry AS (
  INSERT INTO coord_rebuild.agent_registry SELECT l.* FROM coord.agent_registry AS l WHERE $2 OR l.changed_at < $1 OR EXISTS (
    SELECT FROM jsonb_each(l.instances) AS w WHERE (w.value ->> 'since')::float8 < extract(epoch FROM $1)) OR EXISTS (
    SELECT FROM coord.agent AS a WHERE a.tenant = l.tenant AND a.agent = l.id AND a.first_seen < $1)
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), agent AS (
  INSERT INTO coord_rebuild.agent SELECT l.* FROM coord.agent AS l WHERE l.first_seen < $1
  ON CONFLICT (tenant, agent) DO NOTHING RETURNING 1
)
SELECT 'task' AS relation, count(*) AS carried FROM task
UNION ALL SELECT 'workflow' AS relation, count(*) AS carried FROM workflow
UNION ALL SELECT 'handoff' AS relation, count(*) AS carried FROM handoff
UNION ALL SELECT 'signal' AS relation, count(*) AS carried FROM signal
UNION ALL SELECT 'lock' AS relation, count(*) AS carried FROM lock
UNION ALL SELECT 'flag' AS relation, count(*) AS carried FROM flag
UNION ALL SELECT 'agent_registry' AS relation, count(*) AS carried FROM agent_registry
UNION ALL SELECT 'agent', count(*) FROM agent
