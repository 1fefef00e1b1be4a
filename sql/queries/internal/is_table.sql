-- Whether $1 is a plain table (and no view, nor a continuous aggregate).
SELECT relkind = 'r' FROM pg_class WHERE oid = to_regclass($1)
