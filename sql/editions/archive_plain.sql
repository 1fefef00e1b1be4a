-- plain: a piece of the archive is a span of six hours, as long as the other editions' chunks.

CREATE OR REPLACE FUNCTION coord.archive_spans(relation text)
RETURNS TABLE (range_start timestamptz, range_end timestamptz)
LANGUAGE plpgsql STABLE
AS $$
BEGIN
  RETURN QUERY EXECUTE format(
    'SELECT s.start, s.start + INTERVAL ''6 hours''
     FROM (SELECT DISTINCT date_bin(INTERVAL ''6 hours'', stored_at, TIMESTAMPTZ ''2000-01-03 00:00:00+00'') AS start
           FROM coord.%I) AS s
     ORDER BY s.start', relation);
END
$$;
COMMENT ON FUNCTION coord.archive_spans(text) IS 'The ranges of stored_at that are archived and dropped as one: six hours that have rows.';

-- No lock: the rows that are deleted are counted, and the deletion is taken back when they are not those of the archive.
CREATE OR REPLACE FUNCTION coord.archive_drop(
  relation text, range_start timestamptz, range_end timestamptz,
  OUT dropped boolean, OUT archived_rows bigint, OUT archived_sum numeric, OUT found_rows bigint, OUT found_sum numeric
)
LANGUAGE plpgsql
AS $$
BEGIN
  PERFORM FROM coord.archive AS a
  WHERE a.relation = archive_drop.relation AND a.range_start = archive_drop.range_start
    AND a.range_end = archive_drop.range_end AND a.state IN ('verified', 'restored')
  FOR UPDATE;
  SELECT c.archived_rows, c.archived_sum INTO archived_rows, archived_sum
  FROM coord.archive_compare(relation, range_start, range_end) AS c;
  BEGIN
    EXECUTE format(
      'WITH gone AS (DELETE FROM coord.%I WHERE stored_at >= $1 AND stored_at < $2 RETURNING seq)
       SELECT count(*), coalesce(sum(seq), 0) FROM gone', relation)
    INTO found_rows, found_sum USING range_start, range_end;
    dropped := found_rows = 0 OR (found_rows = archived_rows AND found_sum = archived_sum);
    IF NOT dropped THEN
      RAISE EXCEPTION 'taken back' USING ERRCODE = 'CO001';
    END IF;
  EXCEPTION WHEN SQLSTATE 'CO001' THEN
    RETURN;
  END;
  UPDATE coord.archive AS a SET state = 'dropped', restored_until = NULL, changed_at = now()
  WHERE a.relation = archive_drop.relation AND a.range_start = archive_drop.range_start
    AND a.range_end = archive_drop.range_end AND a.state IN ('verified', 'restored');
END
$$;
COMMENT ON FUNCTION coord.archive_drop(text, timestamptz, timestamptz) IS
  'Deletes a span that is in the archive, verified, and has no other rows than are there; says what it compared.';
