-- When the nightly work was last begun, and what time it is: the same clock for whoever asks.
SELECT now() AS now, max(started_at) AS last FROM coord.maintenance_step WHERE job = 'night'
