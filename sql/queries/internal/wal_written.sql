-- Up to where the write-ahead log has been written by now: what was committed before lies below.
SELECT pg_current_wal_insert_lsn()::text AS lsn
