-- Rows of tasks of which nothing was stored since are taken as they are: all that coord_rebuild.touched does not name;
-- other tables by their name. $1 what kind of entity they are.
INSERT INTO coord_rebuild.task SELECT l.* FROM coord.task AS l
WHERE NOT EXISTS (
  SELECT FROM coord_rebuild.touched AS t WHERE t.kind = $1 AND (t.tenant, t.key, t.id) = (l.tenant, l.key, l.id)
)
