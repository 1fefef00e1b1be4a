-- Which of these handoffs ended and may have left the log.
-- What became of those whose log is gone ('lost') may be offered again.
-- $1 tenant, $2 keys, $3 ids, $4 what began since then is in the log; null: nothing is.
SELECT h.key, h.id, h.status, h.offerer AS submitter, h.offered_at AS begun_at, h.fold
FROM unnest($2::text[], $3::text[]) AS asked (key, id)
JOIN coord.handoff AS h ON h.tenant = $1 AND h.key = asked.key AND h.id = asked.id
WHERE h.ended_at IS NOT NULL AND h.status <> 'lost' AND ($4::timestamptz IS NULL OR h.offered_at < $4)
