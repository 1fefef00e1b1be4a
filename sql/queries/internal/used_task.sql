-- Which of these tasks ended and may have left the log.
-- What became of those whose log is gone ('lost') may be submitted again.
-- $1 tenant, $2 keys, $3 ids, $4 what began since then is in the log; null: nothing is.
SELECT t.key, t.id, t.status, t.submitter, t.submitted_at AS begun_at, t.fold
FROM unnest($2::text[], $3::text[]) AS asked (key, id)
JOIN coord.task AS t ON t.tenant = $1 AND t.key = asked.key AND t.id = asked.id
WHERE t.ended_at IS NOT NULL AND t.status <> 'lost' AND ($4::timestamptz IS NULL OR t.submitted_at < $4)
