-- Where a rebuild begins, and where its first round ends: $1 token, $2 whether of some entities only, $3 to $5 the
-- checkpoints' epochs, sequences and times.
INSERT INTO coord_rebuild.progress (token, partial, from_epochs, from_seqs, upto_epochs, upto_seqs, upto_times)
VALUES (
  $1, $2, array_fill(0, ARRAY[cardinality($3::integer[])]), array_fill(0::bigint, ARRAY[cardinality($3::integer[])]),
  $3, $4::bigint[], $5::timestamptz[]
)
