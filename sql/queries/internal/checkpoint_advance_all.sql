-- Exactly once rests on this, for all partitions of one transaction: each moves only from where its writer believes
-- it to be; those that moved are returned. Locked in the order of the primary key, so that two writers cannot deadlock.
-- $1 streams, $2 partitions, $3 epochs, $4 seqs before, $5 seqs after, $6 stored_ats, $7 pendings, $8 digests,
-- $9 messages in the chain, $10 whether to write an anchor.
WITH claimed AS MATERIALIZED (
  SELECT new.*
  FROM unnest(
    $1::text[], $2::smallint[], $3::int[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::boolean[]
  ) AS new (stream, partition, epoch, seq_before, seq, stored_at, pending, digest, messages, anchor)
  JOIN coord.checkpoint AS c
    ON c.stream = new.stream AND c.partition = new.partition AND c.epoch = new.epoch AND c.seq = new.seq_before
  ORDER BY c.stream, c.partition
  FOR UPDATE OF c
), moved AS (
  UPDATE coord.checkpoint AS c
  SET
    seq = m.seq, stored_at = m.stored_at, pending = m.pending, digest = m.digest, messages = m.messages,
    updated_at = clock_timestamp()
  FROM claimed AS m
  WHERE c.stream = m.stream AND c.partition = m.partition AND c.epoch = m.epoch AND c.seq = m.seq_before
  RETURNING m.stream, m.partition, m.epoch, m.seq, m.stored_at, m.messages, m.digest, m.anchor
), anchored AS (
  INSERT INTO coord.audit_anchor (stream, partition, epoch, seq, stored_at, messages, digest)
  SELECT stream, partition, epoch, seq, stored_at, messages, digest FROM moved WHERE anchor
  ON CONFLICT DO NOTHING
)
SELECT stream, partition FROM moved
