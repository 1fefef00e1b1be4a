-- Epochs of EVENTS that began with another log, so that what was open in the one before is lost: $1 partition.
SELECT epoch, opened_at FROM coord.epoch WHERE stream = 'EVENTS' AND partition = $1 AND replaced ORDER BY epoch
