-- What an analyst's login reaches beyond what it should: writing anywhere, reading what are no views, or other fleets.
SELECT c.oid::regclass::text
FROM pg_class AS c
WHERE c.relnamespace IN (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname IN ('coord', 'coord_tenant'))
  AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
  AND (
    has_table_privilege(%(login)s::name, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES')
    OR (
      has_any_column_privilege(%(login)s::name, c.oid, 'SELECT')
      AND NOT (
        c.relkind = 'v' AND c.relname LIKE 'v\_%%'
        AND c.relnamespace = (CASE WHEN %(fleet)s THEN 'coord_tenant' ELSE 'coord' END)::regnamespace
      )
    )
  )
ORDER BY 1
