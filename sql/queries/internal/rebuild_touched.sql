-- The entities of which something was stored from $2 on, or from sequence $4 of epoch $3 on. $1 kinds.
INSERT INTO coord_rebuild.touched (kind, tenant, key, id)
SELECT DISTINCT e.kind, e.tenant, e.key, e.id FROM coord.event AS e
WHERE e.kind = ANY ($1::text[]) AND ($2::timestamptz IS NULL OR e.stored_at >= $2)
  AND ($4::bigint IS NULL OR (e.epoch, e.seq) >= ($3::integer, $4))
ON CONFLICT DO NOTHING
