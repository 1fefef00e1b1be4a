-- Partitions that another log was under from an epoch on, and when that was decided: what was open in the old one was lost.
SELECT epoch, opened_at, array_agg(partition) AS partitions
FROM coord.epoch WHERE stream = 'EVENTS' AND replaced GROUP BY epoch, opened_at ORDER BY epoch
