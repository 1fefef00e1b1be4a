-- What `coord doctor` asks of the server and of this role, in one row.
SELECT
  clock_timestamp() AS now,
  current_setting('fsync')::boolean AS fsync,
  current_setting('full_page_writes')::boolean AS full_page_writes,
  current_setting('max_connections')::integer AS connections_max,
  (SELECT count(*) FROM pg_stat_activity) AS connections,
  (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) AS superuser,
  current_user::text AS role,
  EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'coord_reader') AS reader_exists,
  coalesce((SELECT s.ssl FROM pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()), FALSE) AS encrypted,
  inet_server_addr() IS NULL OR inet_server_addr() << '127.0.0.0/8'::inet OR inet_server_addr() = '::1'::inet AS is_local,
  to_regclass('coord.event') IS NOT NULL AS migrated
