-- Whether the readers' roles and their table are there, as `coord db migrate` makes them.
SELECT count(*) = 2 AND to_regclass('coord.reader') IS NOT NULL
FROM pg_roles AS r
WHERE r.rolname IN ('coord_reader', 'coord_tenant_reader')
