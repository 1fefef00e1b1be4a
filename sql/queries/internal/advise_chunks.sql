-- Chunks of coord's hypertables, the newest first, with the bytes of those that are not compressed.
SELECT
  c.hypertable_name::text AS relation, format('%I.%I', c.chunk_schema, c.chunk_name) AS chunk,
  extract(epoch FROM c.range_end - c.range_start)::double precision AS seconds,
  extract(epoch FROM d.time_interval)::double precision AS interval_s, c.range_end <= now() AS is_whole,
  CASE WHEN NOT c.is_compressed THEN pg_total_relation_size(format('%I.%I', c.chunk_schema, c.chunk_name)::regclass) END AS bytes
FROM timescaledb_information.chunks AS c
INNER JOIN timescaledb_information.dimensions AS d
  ON d.hypertable_schema = c.hypertable_schema AND d.hypertable_name = c.hypertable_name AND d.dimension_number = 1
WHERE c.hypertable_schema = 'coord'
ORDER BY c.hypertable_name, c.range_start DESC
