-- Which of these workflows ended and may have left the log.
-- What became of those whose log is gone ('lost') may be started again.
-- $1 tenant, $2 keys, $3 ids, $4 what began since then is in the log; null: nothing is.
SELECT w.key, w.id, w.status, w.submitter, w.started_at AS begun_at, w.fold
FROM unnest($2::text[], $3::text[]) AS asked (key, id)
JOIN coord.workflow AS w ON w.tenant = $1 AND w.key = asked.key AND w.id = asked.id
WHERE w.ended_at IS NOT NULL AND w.status <> 'lost' AND ($4::timestamptz IS NULL OR w.started_at < $4)
