-- These entities are made anew: $1 kinds, $2 tenants, $3 keys, $4 ids.
INSERT INTO coord_rebuild.touched (kind, tenant, key, id)
SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT DO NOTHING
