-- Where the chains of stream $1 are known from sequence $2 on, in its partitions' present epochs; the checkpoint is the last.
SELECT a.partition, a.seq, a.messages, a.digest
FROM coord.audit_anchor AS a
JOIN coord.checkpoint AS c ON c.stream = a.stream AND c.partition = a.partition AND c.epoch = a.epoch
WHERE a.stream = $1::text AND a.seq >= $2::bigint AND a.seq <= c.seq
UNION
SELECT partition, seq, messages, digest FROM coord.checkpoint WHERE stream = $1::text AND seq >= $2::bigint
ORDER BY partition, seq, messages
