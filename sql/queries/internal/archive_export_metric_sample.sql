-- A chunk's samples as they go into the archive, in the order of their stream; $1 from, $2 until before.
SELECT stored_at, epoch, seq, idx, partition, tenant, agent, series, occurred_at, projected_at, value, data::text AS data
FROM coord.metric_sample
WHERE stored_at >= $1 AND stored_at < $2
ORDER BY epoch, seq, idx
