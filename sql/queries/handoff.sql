-- One handoff as it is now, whether or not the log still has it.
-- :tenant  whose fleet
-- :id      which
-- :key     its ordering key; empty: its id
-- The whole state; `history` has the facts that led to it.
SELECT x.*
FROM coord.v_handoff_state AS x
WHERE x.tenant = :'tenant' AND x.id = :'id' AND x.key = coalesce(nullif(:'key', ''), :'id')
