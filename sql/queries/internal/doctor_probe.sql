-- Whether the fact that `coord doctor --probe` stated is a row; $1 tenant, $2 its key.
SELECT e.seq FROM coord.event AS e
WHERE e.tenant = $1 AND e.key = $2 AND e.kind = 'probe' AND e.stored_at > now() - INTERVAL '1 hour'
