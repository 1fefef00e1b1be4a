-- Rows of what began before the history that is read are taken as they are, into the tables that are made: how many.
-- $1 from when on the history goes.
WITH task AS (
  INSERT INTO coord_rebuild.task SELECT * FROM coord.task WHERE submitted_at < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), workflow AS (
  INSERT INTO coord_rebuild.workflow SELECT * FROM coord.workflow WHERE started_at < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), handoff AS (
  INSERT INTO coord_rebuild.handoff SELECT * FROM coord.handoff WHERE offered_at < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), signal AS (
  INSERT INTO coord_rebuild.signal SELECT * FROM coord.signal WHERE coalesce(raised_at, changed_at) < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), lock AS (
  INSERT INTO coord_rebuild.lock SELECT * FROM coord.lock WHERE changed_at < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), flag AS (
  INSERT INTO coord_rebuild.flag SELECT * FROM coord.flag WHERE set_at < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), agent_registry AS (
  INSERT INTO coord_rebuild.agent_registry SELECT * FROM coord.agent_registry WHERE coalesce(registered_at, changed_at) < $1
  ON CONFLICT (tenant, key, id) DO NOTHING RETURNING 1
), agent AS (
  INSERT INTO coord_rebuild.agent SELECT * FROM coord.agent WHERE first_seen < $1
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
