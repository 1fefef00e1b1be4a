-- One lock as it is now: who holds it and who waits for it, in the order of their turns.
-- :tenant  whose fleet
-- :id      which
-- :key     its ordering key; empty: its id
-- No row: nobody holds it. fence is the number to show to what the lock protects.
SELECT x.*
FROM coord.v_lock AS x
WHERE x.tenant = :'tenant' AND x.id = :'id' AND x.key = coalesce(nullif(:'key', ''), :'id')
ORDER BY x.fence
