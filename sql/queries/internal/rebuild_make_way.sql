-- What was made of a part of its history makes way for the rows of what began before it. $1 from when on it goes; $2
-- whether there was anything before: then what was begun again, or changed, may be older than it looks,
-- and of a signal nobody can say.
WITH task AS (
  DELETE FROM coord_rebuild.task AS r USING coord.task AS l
  WHERE (r.tenant, r.key, r.id) = (l.tenant, l.key, l.id)
    AND (l.submitted_at < $1 OR l.started_first_at < $1 OR (l.redrives > 0 AND $2)) RETURNING 1
), workflow AS (
  DELETE FROM coord_rebuild.workflow AS r USING coord.workflow AS l
  WHERE (r.tenant, r.key, r.id) = (l.tenant, l.key, l.id) AND l.started_at < $1 RETURNING 1
), handoff AS (
  DELETE FROM coord_rebuild.handoff AS r USING coord.handoff AS l
  WHERE (r.tenant, r.key, r.id) = (l.tenant, l.key, l.id) AND l.offered_at < $1 RETURNING 1
), signal AS (
  DELETE FROM coord_rebuild.signal AS r USING coord.signal AS l
  WHERE (r.tenant, r.key, r.id) = (l.tenant, l.key, l.id) AND $2 RETURNING 1
), lock AS (
  DELETE FROM coord_rebuild.lock AS r USING coord.lock AS l
  WHERE (r.tenant, r.key, r.id) = (l.tenant, l.key, l.id) AND (l.changed_at < $1 OR EXISTS (
    SELECT FROM jsonb_each(l.requests) AS w WHERE (w.value ->> 'since')::float8 < extract(epoch FROM $1))) RETURNING 1
), flag AS (
  DELETE FROM coord_rebuild.flag AS r USING coord.flag AS l
  WHERE (r.tenant, r.key, r.id) = (l.tenant, l.key, l.id) AND (l.set_at < $1 OR (l.changes > 1 AND $2)) RETURNING 1
), agent_registry AS (
  DELETE FROM coord_rebuild.agent_registry AS r USING coord.agent_registry AS l
  WHERE (r.tenant, r.key, r.id) = (l.tenant, l.key, l.id) AND (l.changed_at < $1 OR EXISTS (
    SELECT FROM jsonb_each(l.instances) AS w WHERE (w.value ->> 'since')::float8 < extract(epoch FROM $1)) OR EXISTS (
    SELECT FROM coord.agent AS a WHERE a.tenant = l.tenant AND a.agent = l.id AND a.first_seen < $1)) RETURNING 1
), agent AS (
  DELETE FROM coord_rebuild.agent AS r USING coord.agent AS l
  WHERE (r.tenant, r.agent) = (l.tenant, l.agent) AND l.first_seen < $1 RETURNING 1
)
SELECT 1
