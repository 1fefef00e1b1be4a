-- A chunk's facts as they go into the archive, in the order of the log; $1 from, $2 until before.
SELECT stored_at, epoch, seq, idx, partition, tenant, agent, key, kind, id, event, detail, event_id, type, schema,
  occurred_at, projected_at, correlation_id, causation_id, traceparent, data::text AS data
FROM coord.event
WHERE stored_at >= $1 AND stored_at < $2
ORDER BY epoch, seq, idx
