-- What could not be believed, with the reason; a letter that is there already stays as it is.
INSERT INTO coord.dead_letter (
  stream, epoch, seq, idx, partition, subject, tenant, agent, code, reason, body, body_bytes, headers, stored_at
)
SELECT *
FROM unnest(
  $1::text[], $2::int[], $3::bigint[], $4::int[], $5::smallint[], $6::text[], $7::text[], $8::text[],
  $9::text[], $10::text[], $11::bytea[], $12::int[], $13::text[], $14::timestamptz[]
)
ON CONFLICT (stream, epoch, seq, idx) DO NOTHING
