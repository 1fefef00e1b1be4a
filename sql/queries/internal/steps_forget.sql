-- Steps that ended more than $1 (interval) ago, but for the newest of each job and table; $2 at most. Those that the log
-- has no fact of stay twice as long: where there is no log, they would stay for good.
DELETE FROM coord.maintenance_step WHERE id = ANY (ARRAY(
  SELECT s.id FROM coord.maintenance_step AS s
  WHERE s.ended_at < now() - $1::interval AND (s.stated OR s.ended_at < now() - 2 * $1::interval) AND EXISTS (
    SELECT FROM coord.maintenance_step AS newer WHERE newer.job = s.job AND newer.relation = s.relation AND newer.id > s.id
  )
  LIMIT $2
))
