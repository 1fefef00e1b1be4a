-- One signal as it is now: whether it is raised, and how many wait for it.
-- :tenant  whose fleet
-- :id      which
-- :key     its ordering key; empty: its id
-- Who waits is in `waiting`.
SELECT x.*
FROM coord.v_signal AS x
WHERE x.tenant = :'tenant' AND x.id = :'id' AND x.key = coalesce(nullif(:'key', ''), :'id')
