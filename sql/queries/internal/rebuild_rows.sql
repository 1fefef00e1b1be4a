-- Facts about entities in the order of the log, as the projector made rows of them. $1 kinds, $2 epoch, $3 and $4 first and
-- last sequence, $5 and $6 stored since and before, $7 and $8 by partition: above which sequence and up to which.
SELECT e.stored_at, e.epoch, e.seq, e.idx, e.partition, e.tenant, e.agent, e.key, e.kind, e.id, e.event, e.detail,
  e.event_id, e.type, e.schema, e.occurred_at, e.correlation_id, e.causation_id, e.traceparent, e.data::text AS data
FROM coord.event AS e
WHERE e.kind = ANY ($1::text[]) AND e.epoch = $2 AND e.seq BETWEEN $3 AND $4 AND e.stored_at >= $5 AND e.stored_at < $6
  AND e.seq > ($7::bigint[])[e.partition + 1] AND e.seq <= ($8::bigint[])[e.partition + 1]
ORDER BY e.seq, e.idx
