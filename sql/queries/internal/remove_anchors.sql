-- Anchors older than $1 (interval), $2 rows a step: no window holds what they speak of. Each partition keeps its newest.
DELETE FROM coord.audit_anchor AS a
USING (
  SELECT o.stream, o.partition, o.epoch, o.seq
  FROM coord.audit_anchor AS o
  WHERE o.anchored_at < now() - $1::interval AND EXISTS (
    SELECT FROM coord.audit_anchor AS n
    WHERE n.stream = o.stream AND n.partition = o.partition AND n.epoch = o.epoch AND n.seq > o.seq
      AND n.anchored_at < now() - $1::interval
  )
  LIMIT $2
) AS old
WHERE (a.stream, a.partition, a.epoch, a.seq) = (old.stream, old.partition, old.epoch, old.seq)
