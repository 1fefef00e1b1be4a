-- The archive: which chunks are in Parquet files, and how far that has come (docs/adr/0093).

-- --- the archive: what is in Parquet (docs/adr/0093) ------------------------------------------

-- One row while an archive is configured, written by `coord db migrate` from the settings: so the database itself
-- knows that nothing may be dropped before it is verified there, whatever the settings of whoever asks.
CREATE TABLE coord.archive_store (
  since timestamptz NOT NULL DEFAULT now(),
  sole  boolean     NOT NULL DEFAULT true PRIMARY KEY CHECK (sole),
  url   text        NOT NULL
);

COMMENT ON TABLE coord.archive_store IS 'Where the archive is; no row: there is none, and retention drops rows unarchived.';
COMMENT ON COLUMN coord.archive_store.since IS 'Database''s clock: since when it is there.';
COMMENT ON COLUMN coord.archive_store.sole IS 'There is one archive at most.';
COMMENT ON COLUMN coord.archive_store.url IS 'A folder or an address of an object store, without secrets.';

CREATE TABLE coord.archive (
  range_start    timestamptz NOT NULL,
  range_end      timestamptz NOT NULL,
  began_at       timestamptz NOT NULL DEFAULT now(),
  changed_at     timestamptz NOT NULL DEFAULT now(),
  verified_at    timestamptz,
  restored_until timestamptz,
  piece          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  row_count      bigint      CHECK (row_count >= 0),
  seq_sum        numeric,
  byte_count     bigint      CHECK (byte_count >= 0),
  attempt        integer     NOT NULL DEFAULT 1 CHECK (attempt >= 1),
  relation       text COLLATE "C"        NOT NULL CHECK (relation IN ('event', 'metric_sample')),
  state          text COLLATE "C"        NOT NULL DEFAULT 'writing'
    CHECK (state IN ('writing', 'written', 'published', 'verified', 'dropped', 'restored', 'purging', 'purged')),
  CHECK (range_start < range_end)
);
CREATE INDEX archive_range_idx ON coord.archive (relation, range_start);

COMMENT ON TABLE coord.archive IS
  'Each chunk that was written as Parquet, and how far that has come. Its rows are cold, only in the files, while its state is dropped. Analysts read v_archive.';
COMMENT ON COLUMN coord.archive.range_start IS 'stored_at of its rows: from then on,';
COMMENT ON COLUMN coord.archive.range_end IS 'until before then.';
COMMENT ON COLUMN coord.archive.began_at IS 'Database''s clock: when it was begun.';
COMMENT ON COLUMN coord.archive.changed_at IS 'Database''s clock: its last change of state.';
COMMENT ON COLUMN coord.archive.verified_at IS 'Database''s clock: when its files were last read back and found whole.';
COMMENT ON COLUMN coord.archive.restored_until IS 'Until when rows that were restored stay at least; null: they were not.';
COMMENT ON COLUMN coord.archive.piece IS 'Its number, a part of its files'' names.';
COMMENT ON COLUMN coord.archive.row_count IS 'Rows in its files; null until they are written.';
COMMENT ON COLUMN coord.archive.seq_sum IS 'Sum of their seq: compared with the chunk before that is dropped.';
COMMENT ON COLUMN coord.archive.byte_count IS 'Bytes of its files.';
COMMENT ON COLUMN coord.archive.attempt IS 'How often it was begun, a part of its files'' names.';
COMMENT ON COLUMN coord.archive.relation IS 'The table: event or metric_sample.';
COMMENT ON COLUMN coord.archive.state IS
  'writing, written (aside), published (under its name), verified (read back), dropped (from the table), restored (in the table again), purging, purged.';

CREATE TABLE coord.archive_file (
  piece         bigint   NOT NULL,
  row_count     bigint   NOT NULL CHECK (row_count > 0),
  byte_count    bigint   NOT NULL CHECK (byte_count > 0),
  seq_first     bigint   NOT NULL,
  seq_last      bigint   NOT NULL CHECK (seq_last >= seq_first),
  number        integer  NOT NULL,
  epoch         integer  NOT NULL,
  day           date     NOT NULL,
  tenant        text COLLATE "C" NOT NULL,
  kind          text COLLATE "C",
  path          text COLLATE "C" NOT NULL,
  sha256        text COLLATE "C" NOT NULL,
  content       text COLLATE "C" NOT NULL,
  PRIMARY KEY (piece, number)
);
CREATE INDEX archive_file_tenant_idx ON coord.archive_file (tenant, day);

COMMENT ON TABLE coord.archive_file IS 'The files of the archive: the manifest, as it also lies beside them.';
COMMENT ON COLUMN coord.archive_file.piece IS 'The chunk it is a part of.';
COMMENT ON COLUMN coord.archive_file.row_count IS 'Rows in it.';
COMMENT ON COLUMN coord.archive_file.byte_count IS 'Its size.';
COMMENT ON COLUMN coord.archive_file.seq_first IS 'seq of its first row; its rows are in the order of (seq, idx).';
COMMENT ON COLUMN coord.archive_file.seq_last IS 'seq of its last row.';
COMMENT ON COLUMN coord.archive_file.number IS 'Its number in the piece, from 0.';
COMMENT ON COLUMN coord.archive_file.epoch IS 'Incarnation of the stream: all its rows are of one.';
COMMENT ON COLUMN coord.archive_file.day IS 'stored_at of its rows, UTC.';
COMMENT ON COLUMN coord.archive_file.tenant IS 'Whose fleet: all its rows are of one.';
COMMENT ON COLUMN coord.archive_file.kind IS 'All its facts are about one kind; null: samples have none.';
COMMENT ON COLUMN coord.archive_file.path IS 'Below the archive''s root.';
COMMENT ON COLUMN coord.archive_file.sha256 IS 'Of its bytes.';
COMMENT ON COLUMN coord.archive_file.content IS 'Of the values in it, column by column: what was read from the table.';
