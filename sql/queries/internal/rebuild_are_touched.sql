-- Whether each of these entities is made anew, in their order: $1 kinds, $2 tenants, $3 keys, $4 ids.
SELECT t.kind IS NOT NULL AS touched
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS a (kind, tenant, key, id, n)
LEFT JOIN coord_rebuild.touched AS t USING (kind, tenant, key, id)
ORDER BY a.n
