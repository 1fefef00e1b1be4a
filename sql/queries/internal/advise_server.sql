-- What the server says about itself: how long it has counted, its memory, what the database takes, and where.
SELECT
  extract(epoch FROM now() - coalesce(d.stats_reset, pg_postmaster_start_time()))::double precision AS observed_s,
  pg_size_bytes(current_setting('effective_cache_size')) AS memory,
  pg_database_size(current_database()) AS used,
  current_setting('data_directory', true) AS data_directory
FROM pg_stat_database AS d
WHERE d.datname = current_database()
