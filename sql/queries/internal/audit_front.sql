-- Rows of EVENTS whose messages should still be in the log but lie below its first sequence $1: stored after $2, at or above $3.
SELECT min(seq) AS first, max(seq) AS last, count(DISTINCT seq) AS messages
FROM coord.event
WHERE stored_at > $2 AND seq < $1::bigint AND seq >= $3::bigint
  AND epoch IN (SELECT epoch FROM coord.checkpoint WHERE stream = 'EVENTS')
