-- The entities of which something was stored from $2 on. $1 kinds.
INSERT INTO coord_rebuild.touched (kind, tenant, key, id)
SELECT DISTINCT e.kind, e.tenant, e.key, e.id FROM coord.event AS e WHERE e.kind = ANY ($1::text[]) AND e.stored_at >= $2
