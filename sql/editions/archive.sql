-- Every edition: whether there is an archive, and which.
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
