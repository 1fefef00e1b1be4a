-- Rows of entities of which nothing was stored since are taken as they are: all that coord_rebuild.touched does not name.
WITH task AS (
  INSERT INTO coord_rebuild.task SELECT l.* FROM coord.task AS l WHERE NOT EXISTS (
    SELECT FROM coord_rebuild.touched AS t
    WHERE t.kind = 'task' AND (t.tenant, t.key, t.id) = (l.tenant, l.key, l.id)
  ) RETURNING 1
), workflow AS (
  INSERT INTO coord_rebuild.workflow SELECT l.* FROM coord.workflow AS l WHERE NOT EXISTS (
    SELECT FROM coord_rebuild.touched AS t
    WHERE t.kind = 'workflow' AND (t.tenant, t.key, t.id) = (l.tenant, l.key, l.id)
  ) RETURNING 1
), handoff AS (
  INSERT INTO coord_rebuild.handoff SELECT l.* FROM coord.handoff AS l WHERE NOT EXISTS (
    SELECT FROM coord_rebuild.touched AS t
    WHERE t.kind = 'handoff' AND (t.tenant, t.key, t.id) = (l.tenant, l.key, l.id)
  ) RETURNING 1
), signal AS (
  INSERT INTO coord_rebuild.signal SELECT l.* FROM coord.signal AS l WHERE NOT EXISTS (
    SELECT FROM coord_rebuild.touched AS t
    WHERE t.kind = 'signal' AND (t.tenant, t.key, t.id) = (l.tenant, l.key, l.id)
  ) RETURNING 1
), lock AS (
  INSERT INTO coord_rebuild.lock SELECT l.* FROM coord.lock AS l WHERE NOT EXISTS (
    SELECT FROM coord_rebuild.touched AS t
    WHERE t.kind = 'lock' AND (t.tenant, t.key, t.id) = (l.tenant, l.key, l.id)
  ) RETURNING 1
), flag AS (
  INSERT INTO coord_rebuild.flag SELECT l.* FROM coord.flag AS l WHERE NOT EXISTS (
    SELECT FROM coord_rebuild.touched AS t
    WHERE t.kind = 'flag' AND (t.tenant, t.key, t.id) = (l.tenant, l.key, l.id)
  ) RETURNING 1
), agent_registry AS (
  INSERT INTO coord_rebuild.agent_registry SELECT l.* FROM coord.agent_registry AS l WHERE NOT EXISTS (
    SELECT FROM coord_rebuild.touched AS t
    WHERE t.kind = 'agent' AND (t.tenant, t.key, t.id) = (l.tenant, l.key, l.id)
  ) RETURNING 1
), agent AS (
  INSERT INTO coord_rebuild.agent SELECT l.* FROM coord.agent AS l WHERE NOT EXISTS (
    SELECT FROM coord_rebuild.touched AS t WHERE t.kind = 'agent' AND t.tenant = l.tenant AND t.id = l.agent
  ) RETURNING 1
)
SELECT 'task' AS relation, count(*) AS carried FROM task
UNION ALL SELECT 'workflow' AS relation, count(*) AS carried FROM workflow
UNION ALL SELECT 'handoff' AS relation, count(*) AS carried FROM handoff
UNION ALL SELECT 'signal' AS relation, count(*) AS carried FROM signal
UNION ALL SELECT 'lock' AS relation, count(*) AS carried FROM lock
UNION ALL SELECT 'flag' AS relation, count(*) AS carried FROM flag
UNION ALL SELECT 'agent_registry' AS relation, count(*) AS carried FROM agent_registry
UNION ALL SELECT 'agent', count(*) FROM agent
