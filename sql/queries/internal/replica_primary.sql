-- Up to where the primary's write-ahead log is durable, in bytes, and whose it is; and how long a commit may be visible
-- before it is durable, in seconds: three times wal_writer_delay, as PostgreSQL's documentation has it.
SELECT
  CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint END AS position,
  (SELECT c.system_identifier FROM pg_control_system() AS c) AS system_id,
  3 * extract(epoch FROM current_setting('wal_writer_delay')::interval)::double precision AS lead_s
