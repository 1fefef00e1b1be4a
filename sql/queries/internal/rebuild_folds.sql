-- Tasks that stand at the same fact and whose saved folds are other bytes: jsonb orders members, and knows no spaces; other
-- tables by their name.
SELECT l.tenant, l.key, l.id, l.fold AS live, r.fold AS rebuilt
FROM coord.task AS l JOIN coord_rebuild.task AS r USING (tenant, key, id)
WHERE l.fold <> r.fold AND (l.epoch, l.seq, l.idx) = (r.epoch, r.seq, r.idx)
