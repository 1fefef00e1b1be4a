-- Every edition: whether there is an archive, which, and the only function that drops what is in it. What a piece of it is
-- in this edition say coord.archive_spans() and coord.archive_chunk().
--
-- coord.archive is set by the migration runner: the archive's address, empty for none; not set at all (a migrate
-- that knows no settings) leaves what is there.

DO $$
DECLARE
  wanted CONSTANT text := current_setting('coord.archive', true);
BEGIN
  IF wanted = '' THEN
    DELETE FROM coord.archive_store;
  ELSIF wanted IS NOT NULL THEN
    INSERT INTO coord.archive_store AS s (url) VALUES (wanted)
    ON CONFLICT (sole) DO UPDATE SET url = excluded.url WHERE s.url <> excluded.url;
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION coord.is_archived(relation text)
RETURNS boolean
LANGUAGE sql STABLE
RETURN relation IN ('event', 'metric_sample') AND EXISTS (SELECT FROM coord.archive_store);
COMMENT ON FUNCTION coord.is_archived(text) IS
  'Whether rows of this table go to the archive: then only coord.archive_drop() drops them, never retention.';

-- What the pieces that hold the rows of a range have of them, and what the table has.
CREATE OR REPLACE FUNCTION coord.archive_compare(
  relation text, range_start timestamptz, range_end timestamptz,
  OUT archived_rows bigint, OUT archived_sum numeric, OUT found_rows bigint, OUT found_sum numeric
)
LANGUAGE plpgsql
AS $$
BEGIN
  SELECT coalesce(sum(a.row_count), 0), coalesce(sum(a.seq_sum), 0) INTO archived_rows, archived_sum
  FROM coord.archive AS a
  WHERE a.relation = archive_compare.relation AND a.range_start = archive_compare.range_start
    AND a.range_end = archive_compare.range_end AND a.state IN ('verified', 'restored');
  EXECUTE format('SELECT count(*), coalesce(sum(seq), 0) FROM coord.%I WHERE stored_at >= $1 AND stored_at < $2', relation)
    INTO found_rows, found_sum USING range_start, range_end;
END
$$;
COMMENT ON FUNCTION coord.archive_compare(text, timestamptz, timestamptz) IS
  'Rows and sum of seq of a range, in the archive and in the table: equal, or it is not dropped.';

-- The chunk is locked against writers while it is compared: what a late projector adds waits, and finds a new chunk.
-- Where a range is no chunk of its own, its rows are counted as they are deleted, and the deletion is taken back when
-- they are not those of the archive: on plain, and of rows that were restored after the chunk interval was changed,
-- which lie beside rows of other pieces; their chunk goes once it is empty.
CREATE OR REPLACE FUNCTION coord.archive_drop(
  relation text, range_start timestamptz, range_end timestamptz,
  OUT dropped boolean, OUT archived_rows bigint, OUT archived_sum numeric, OUT found_rows bigint, OUT found_sum numeric
)
LANGUAGE plpgsql
AS $$
DECLARE
  chunk regclass;
BEGIN
  PERFORM FROM coord.archive AS a
  WHERE a.relation = archive_drop.relation AND a.range_start = archive_drop.range_start
    AND a.range_end = archive_drop.range_end AND a.state IN ('verified', 'restored')
  FOR UPDATE;
  chunk := coord.archive_chunk(relation, range_start, range_end);
  IF chunk IS NOT NULL THEN
    EXECUTE format('LOCK TABLE %s IN SHARE MODE', chunk);
  END IF;
  SELECT c.archived_rows, c.archived_sum, c.found_rows, c.found_sum
  INTO archived_rows, archived_sum, found_rows, found_sum
  FROM coord.archive_compare(relation, range_start, range_end) AS c;
  -- No row at all: there never was one, or somebody dropped the chunk by hand. What is verified is in the archive.
  dropped := found_rows = 0 OR (found_rows = archived_rows AND found_sum = archived_sum);
  IF dropped AND chunk IS NULL AND found_rows > 0 THEN
    BEGIN
      -- They may be compressed by now.
      PERFORM set_config(s.name, '0', true)
      FROM pg_settings AS s WHERE s.name = 'timescaledb.max_tuples_decompressed_per_dml_transaction';
      EXECUTE format(
        'WITH gone AS (DELETE FROM coord.%I WHERE stored_at >= $1 AND stored_at < $2 RETURNING seq)
         SELECT count(*), coalesce(sum(seq), 0) FROM gone', relation)
      INTO found_rows, found_sum USING range_start, range_end;
      dropped := found_rows = archived_rows AND found_sum = archived_sum;
      IF NOT dropped THEN
        RAISE EXCEPTION 'taken back' USING ERRCODE = 'CO001';
      END IF;
    EXCEPTION WHEN SQLSTATE 'CO001' THEN
      RETURN;
    END;
  END IF;
  IF dropped THEN
    IF chunk IS NOT NULL THEN
      PERFORM drop_chunks(format('coord.%I', relation)::regclass, older_than => range_end, newer_than => range_start);
    END IF;
    UPDATE coord.archive AS a SET state = 'dropped', restored_until = NULL, changed_at = now()
    WHERE a.relation = archive_drop.relation AND a.range_start = archive_drop.range_start
      AND a.range_end = archive_drop.range_end AND a.state IN ('verified', 'restored');
  END IF;
END
$$;
COMMENT ON FUNCTION coord.archive_drop(text, timestamptz, timestamptz) IS
  'Drops a range that is in the archive, verified, and has no other rows than are there; says what it compared.';
