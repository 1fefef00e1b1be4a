-- Facts of one key in the order of the log, as rows are written (coord/store/rows.py): $1 tenant, $2 key, $3 kind,
-- $4 id, $5 stored at or before, $6 events; NULL of the last four: all.
SELECT e.stored_at, e.epoch, e.seq, e.idx, e.partition, e.tenant, e.agent, e.key, e.kind, e.id, e.event, e.detail,
  e.event_id, e.type, e.schema, e.occurred_at, e.correlation_id, e.causation_id, e.traceparent, e.data::text AS data
FROM coord.event AS e
WHERE e.tenant = $1 AND e.key = $2
  AND ($3::text IS NULL OR e.kind = $3) AND ($4::text IS NULL OR e.id = $4)
  AND e.stored_at <= coalesce($5::timestamptz, 'infinity')
  AND ($6::text[] IS NULL OR e.event = ANY ($6))
ORDER BY e.epoch, e.seq, e.idx
