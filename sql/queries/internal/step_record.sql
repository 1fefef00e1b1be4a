-- What a step of maintenance did; its number.
INSERT INTO coord.maintenance_step (started_at, ended_at, job, relation, unit, rows, batches, bytes_before, bytes_after, result, reason)
VALUES (now() - make_interval(secs => $1), now(), $2, $3, $4, $5, $6, $7, $8, $9, $10)
RETURNING id
