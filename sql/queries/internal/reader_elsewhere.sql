-- The other databases for which something was set for a login, as `coord db role set` does: its memberships count there too.
SELECT d.datname::text
FROM pg_db_role_setting AS s
INNER JOIN pg_roles AS r ON r.oid = s.setrole
INNER JOIN pg_database AS d ON d.oid = s.setdatabase
WHERE r.rolname = %(login)s AND d.datname <> current_database()
ORDER BY d.datname
