-- Whether there are logins whose statements are looked after, and whether this user may see and end what they do.
SELECT
  EXISTS (SELECT FROM coord.reader AS r WHERE r.statement_s IS NOT NULL) AS wanted,
  u.rolsuper OR (pg_has_role('pg_read_all_stats', 'USAGE') AND pg_has_role('pg_signal_backend', 'USAGE')) AS may
FROM pg_roles AS u
WHERE u.rolname = CURRENT_USER
