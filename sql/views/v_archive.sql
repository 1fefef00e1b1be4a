-- The archive's files, for analysts: what lies where, and which rows are only there.

CREATE OR REPLACE VIEW coord.v_archive AS
SELECT
  f.tenant,
  a.relation,
  f.day,
  f.kind,
  a.state = 'dropped' AS cold,
  f.row_count,
  f.byte_count,
  f.epoch,
  f.seq_first,
  f.seq_last,
  f.path,
  f.sha256,
  a.piece,
  a.state,
  a.range_start,
  a.range_end,
  a.verified_at,
  a.restored_until
FROM coord.archive_file AS f
INNER JOIN coord.archive AS a ON a.piece = f.piece
WHERE a.state IN ('published', 'verified', 'dropped', 'restored');

COMMENT ON VIEW coord.v_archive IS
  'Parquet files of the archive. Where cold, the rows are only there: v_event and the cold files together are every fact, once.';
COMMENT ON COLUMN coord.v_archive.tenant IS 'Whose fleet; a file has rows of one.';
COMMENT ON COLUMN coord.v_archive.relation IS 'event (facts) or metric_sample (telemetry).';
COMMENT ON COLUMN coord.v_archive.day IS 'UTC day of stored_at.';
COMMENT ON COLUMN coord.v_archive.kind IS 'Kind of entity its facts are about; null for telemetry.';
COMMENT ON COLUMN coord.v_archive.cold IS 'Whether its rows are only here; false: they are in the tables too.';
COMMENT ON COLUMN coord.v_archive.row_count IS 'Rows in it.';
COMMENT ON COLUMN coord.v_archive.byte_count IS 'Its size.';
COMMENT ON COLUMN coord.v_archive.epoch IS 'Incarnation of the log.';
COMMENT ON COLUMN coord.v_archive.seq_first IS 'seq of its first row.';
COMMENT ON COLUMN coord.v_archive.seq_last IS 'seq of its last row.';
COMMENT ON COLUMN coord.v_archive.path IS 'Below the archive''s root.';
COMMENT ON COLUMN coord.v_archive.sha256 IS 'Of its bytes.';
COMMENT ON COLUMN coord.v_archive.piece IS 'The chunk it came from.';
COMMENT ON COLUMN coord.v_archive.state IS 'published, verified, dropped (then it is cold) or restored.';
COMMENT ON COLUMN coord.v_archive.range_start IS 'stored_at of the chunk: from then on,';
COMMENT ON COLUMN coord.v_archive.range_end IS 'until before then.';
COMMENT ON COLUMN coord.v_archive.verified_at IS 'When it was last read back and found whole.';
COMMENT ON COLUMN coord.v_archive.restored_until IS 'Until when restored rows stay in the tables at least.';
