-- How many facts about entities the copy of the log has of each epoch and ten minutes. $1 kinds, $2 not stored before.
SELECT e.epoch, date_bin('10 minutes', e.stored_at, TIMESTAMPTZ '2000-01-01 00:00:00+00') AS since,
  min(e.seq) AS first, max(e.seq) AS last, count(*) AS rows
FROM coord.event AS e
WHERE e.kind = ANY ($1::text[]) AND e.stored_at >= $2
GROUP BY 1, 2
