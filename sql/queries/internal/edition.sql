-- Everything that tells the edition and what it lacks, in one row. A GUC that is not there is null.
SELECT
  current_setting('server_version') AS postgres,
  (SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'timescaledb') AS timescaledb,
  current_setting('timescaledb.license', true) AS license,
  current_setting('timescaledb.enable_direct_compress_copy', true) IS NOT NULL AS direct_compress,
  current_setting('track_commit_timestamp')::boolean AS commit_timestamps,
  (SELECT x.default_version FROM pg_available_extensions AS x WHERE x.name = 'timescaledb') AS available,
  EXISTS (SELECT FROM pg_settings AS s WHERE s.name LIKE 'timescaledb.%') AS preloaded
