-- One task as it is now, whether or not the log still has it.
-- :tenant  whose fleet
-- :id      which
-- :key     its ordering key; empty: its id
SELECT x.*
FROM coord.v_task AS x
WHERE x.tenant = :'tenant' AND x.id = :'id' AND x.key = coalesce(nullif(:'key', ''), :'id')
