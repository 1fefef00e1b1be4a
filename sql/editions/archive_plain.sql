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

CREATE OR REPLACE FUNCTION coord.archive_chunk(relation text, range_start timestamptz, range_end timestamptz)
RETURNS regclass
LANGUAGE sql IMMUTABLE
RETURN NULL::regclass;
COMMENT ON FUNCTION coord.archive_chunk(text, timestamptz, timestamptz) IS
  'The chunk that has exactly this range of stored_at; null: there is none.';
