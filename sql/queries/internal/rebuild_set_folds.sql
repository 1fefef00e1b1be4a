-- The saved folds of some tasks as the live table has them; other tables by their name. $1 tenants, $2 keys, $3 ids, $4 folds.
UPDATE coord_rebuild.task AS t SET fold = n.fold
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS n (tenant, key, id, fold)
WHERE (t.tenant, t.key, t.id) = (n.tenant, n.key, n.id)
