-- When the nightly work that was last done was begun, when it was last tried, and what time it is: the same clock for
-- whoever asks. A night of a clock that was ahead, and was put right since, is none: it would be the last until then.
SELECT now() AS now, max(started_at) FILTER (WHERE result = 'done') AS last, max(started_at) AS tried
FROM coord.maintenance_step WHERE job = 'night' AND started_at <= now()
