-- When the nightly work was last begun, and what time it is: the same clock for whoever asks. A night of a clock that was
-- ahead, and was put right since, is none: it would be the last until then.
SELECT now() AS now, max(started_at) FILTER (WHERE started_at <= now()) AS last
FROM coord.maintenance_step WHERE job = 'night'
