-- The database itself, in one row: how large, how many connections, how many are allowed.
SELECT
  pg_database_size(current_database()) AS bytes,
  (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datname = current_database()) AS connections,
  current_setting('max_connections')::integer AS connections_max,
  to_regclass('coord.checkpoint') IS NOT NULL AS migrated
