-- When the newest message was stored that is a row or a letter of these epochs.
SELECT max(newest.stored_at) AS stored_at
FROM (
  (SELECT e.stored_at FROM coord.event AS e WHERE e.epoch = ANY ($1::integer[]) ORDER BY e.stored_at DESC LIMIT 1)
  UNION ALL
  (SELECT max(d.stored_at) FROM coord.dead_letter AS d WHERE d.stream = 'EVENTS' AND d.epoch = ANY ($1::integer[]))
) AS newest
