-- What time it is for the archive: old is what both clocks, the database's and the broker's as checkpoints have seen
-- it, call old; so one of them that jumps ahead makes nothing old.
SELECT least(now(), coalesce((SELECT max(c.stored_at) FROM coord.checkpoint AS c), now()))
