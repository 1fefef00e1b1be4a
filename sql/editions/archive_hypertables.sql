-- community and apache: a piece of the archive is a chunk.

CREATE OR REPLACE FUNCTION coord.archive_spans(relation text)
RETURNS TABLE (range_start timestamptz, range_end timestamptz)
LANGUAGE sql STABLE
AS $$
  SELECT c.range_start, c.range_end
  FROM timescaledb_information.chunks AS c
  WHERE c.hypertable_schema = 'coord' AND c.hypertable_name = relation
  ORDER BY c.range_start;
$$;
COMMENT ON FUNCTION coord.archive_spans(text) IS 'The ranges of stored_at that are archived and dropped as one: chunks.';

-- The chunk is locked against writers while it is compared: what a late projector adds waits, and finds a new chunk.
-- Rows that were restored after the chunk interval was changed lie in chunks with other bounds, beside rows of other
-- pieces: they are deleted as on plain, and counted as they go; the chunk goes once it is empty.
CREATE OR REPLACE FUNCTION coord.archive_drop(
  relation text, range_start timestamptz, range_end timestamptz,
  OUT dropped boolean, OUT archived_rows bigint, OUT archived_sum numeric, OUT found_rows bigint, OUT found_sum numeric
)
LANGUAGE plpgsql
AS $$
DECLARE
  chunk text;
BEGIN
  PERFORM FROM coord.archive AS a
  WHERE a.relation = archive_drop.relation AND a.range_start = archive_drop.range_start
    AND a.range_end = archive_drop.range_end AND a.state IN ('verified', 'restored')
  FOR UPDATE;
  SELECT format('%I.%I', c.chunk_schema, c.chunk_name) INTO chunk
  FROM timescaledb_information.chunks AS c
  WHERE c.hypertable_schema = 'coord' AND c.hypertable_name = relation
    AND c.range_start = archive_drop.range_start AND c.range_end = archive_drop.range_end;
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
  'Drops a chunk that is in the archive, verified, and has no other rows than are there; says what it compared.';
