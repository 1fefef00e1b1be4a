-- What an analyst's login reaches beyond what it should: writing anywhere, reading what are no views, or other fleets;
-- and the other roles it may take with SET ROLE, whether or not it inherits what they may.
SELECT c.oid::regclass::text AS reached
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
UNION ALL
SELECT 'SET ROLE ' || g.rolname
FROM pg_roles AS g
WHERE
  g.rolname <> %(login)s
  AND g.rolname <> (CASE WHEN %(fleet)s THEN 'coord_tenant_reader' ELSE 'coord_reader' END)
  AND pg_has_role(%(login)s::name, g.oid, 'MEMBER')
ORDER BY reached
