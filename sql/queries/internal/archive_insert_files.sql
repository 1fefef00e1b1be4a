-- The files of a piece, in arrays.
INSERT INTO coord.archive_file
  (piece, number, path, tenant, day, kind, epoch, seq_first, seq_last, row_count, byte_count, sha256, content)
SELECT $1, f.* FROM unnest(
  $2::integer[], $3::text[], $4::text[], $5::date[], $6::text[], $7::integer[], $8::bigint[], $9::bigint[],
  $10::bigint[], $11::bigint[], $12::text[], $13::text[]
) AS f
