-- Steps of which the log has no fact, the oldest first; $1 at most.
SELECT id, started_at, ended_at, job, relation, unit, rows, batches, bytes_before, bytes_after, result, reason
FROM coord.maintenance_step WHERE NOT stated ORDER BY id LIMIT $1
