-- One feature flag as it is now: for whom it is on, and who changed it last.
-- :tenant  whose fleet
-- :id      which
-- :key     its ordering key = flags
-- Its changes, with their notes, are the `history` of that key.
SELECT x.*
FROM coord.v_flag AS x
WHERE x.tenant = :'tenant' AND x.id = :'id' AND x.key = :'key'
