-- Whether the write-ahead log is on disk up to $1: what lies below survives a crash.
SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn AS durable
