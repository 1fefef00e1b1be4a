-- Facts as they are exported, in the order of the log: $1 tenant, $2 from, $3 to (exclusive), $4 key, $5 kind; NULL: all.
SELECT e.seq, e.idx, e.stored_at, e.occurred_at, e.tenant, e.agent, e.key, e.kind, e.id, e.event, e.detail,
  e.partition, e.event_id, e.type, e.schema, e.correlation_id, e.causation_id, e.traceparent, e.data::text AS data
FROM coord.event AS e
WHERE e.tenant = $1 AND e.stored_at >= $2 AND e.stored_at < $3
  AND ($4::text IS NULL OR e.key = $4) AND ($5::text IS NULL OR e.kind = $5)
ORDER BY e.stored_at, e.epoch, e.seq, e.idx
