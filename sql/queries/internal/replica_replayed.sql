-- Up to where a replica shows the primary's write-ahead log, in bytes (null: it is none), and whose it is; and since when
-- it runs, to the microsecond, by which servers behind one address are told apart.
SELECT
  CASE WHEN pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint END AS position,
  (SELECT c.system_identifier FROM pg_control_system() AS c) AS system_id,
  pg_postmaster_start_time() AS started_at
