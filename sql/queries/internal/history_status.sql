-- The newest things an agent said of its status, newest first, as rows are written (coord/store/rows.py): $1 tenant,
-- $2 agent, $3 stored at or before, $4 how many, $5 and $6 up to that sequence of that epoch (null: no bound).
SELECT e.stored_at, e.epoch, e.seq, e.idx, e.partition, e.tenant, e.agent, e.key, e.kind, e.id, e.event, e.detail,
  e.event_id, e.type, e.schema, e.occurred_at, e.correlation_id, e.causation_id, e.traceparent, e.data::text AS data
FROM coord.event AS e
WHERE e.tenant = $1 AND e.key = $2 AND e.kind = 'agent' AND e.id = $2 AND e.event IN ('status', 'changed')
  AND e.stored_at <= coalesce($3::timestamptz, 'infinity')
  AND ($5::bigint IS NULL OR (e.epoch, e.seq) <= ($6::integer, $5::bigint))
ORDER BY e.stored_at DESC, e.epoch DESC, e.seq DESC, e.idx DESC
LIMIT $4
