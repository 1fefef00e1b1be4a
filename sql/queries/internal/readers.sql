-- The logins that read here: members of the readers' roles, with their fleet and what was set for them.
SELECT
  r.rolname::text AS login, f.tenant, r.rolcanlogin AS can_login, r.rolconnlimit AS connections, s.setconfig AS settings
FROM pg_roles AS r
LEFT JOIN coord.reader AS f ON f.login = r.rolname
LEFT JOIN pg_db_role_setting AS s
  ON s.setrole = r.oid AND s.setdatabase = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
WHERE EXISTS (
  SELECT FROM pg_auth_members AS m
  INNER JOIN pg_roles AS g ON g.oid = m.roleid
  WHERE m.member = r.oid AND (g.rolname = 'coord_reader' OR (g.rolname = 'coord_tenant_reader' AND f.login IS NOT NULL))
)
ORDER BY r.rolname
