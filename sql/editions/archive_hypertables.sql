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

CREATE OR REPLACE FUNCTION coord.archive_chunk(relation text, range_start timestamptz, range_end timestamptz)
RETURNS regclass
LANGUAGE sql STABLE
AS $$
  SELECT to_regclass(format('%I.%I', c.chunk_schema, c.chunk_name))
  FROM timescaledb_information.chunks AS c
  WHERE c.hypertable_schema = 'coord' AND c.hypertable_name = relation
    AND c.range_start = archive_chunk.range_start AND c.range_end = archive_chunk.range_end
$$;
COMMENT ON FUNCTION coord.archive_chunk(text, timestamptz, timestamptz) IS
  'The chunk that has exactly this range of stored_at; null: there is none.';
