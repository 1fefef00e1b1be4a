-- Rows that stand at the same fact and whose saved folds are other bytes: jsonb orders members, and knows no spaces.
SELECT 'task' AS relation, tenant, key, id, l.fold AS live, r.fold AS rebuilt
FROM coord.task AS l JOIN coord_rebuild.task AS r USING (tenant, key, id)
WHERE l.fold <> r.fold AND (l.epoch, l.seq, l.idx) = (r.epoch, r.seq, r.idx)
UNION ALL
SELECT 'workflow' AS relation, tenant, key, id, l.fold AS live, r.fold AS rebuilt
FROM coord.workflow AS l JOIN coord_rebuild.workflow AS r USING (tenant, key, id)
WHERE l.fold <> r.fold AND (l.epoch, l.seq, l.idx) = (r.epoch, r.seq, r.idx)
UNION ALL
SELECT 'handoff' AS relation, tenant, key, id, l.fold AS live, r.fold AS rebuilt
FROM coord.handoff AS l JOIN coord_rebuild.handoff AS r USING (tenant, key, id)
WHERE l.fold <> r.fold AND (l.epoch, l.seq, l.idx) = (r.epoch, r.seq, r.idx)
UNION ALL
SELECT 'signal' AS relation, tenant, key, id, l.fold AS live, r.fold AS rebuilt
FROM coord.signal AS l JOIN coord_rebuild.signal AS r USING (tenant, key, id)
WHERE l.fold <> r.fold AND (l.epoch, l.seq, l.idx) = (r.epoch, r.seq, r.idx)
UNION ALL
SELECT 'lock' AS relation, tenant, key, id, l.fold AS live, r.fold AS rebuilt
FROM coord.lock AS l JOIN coord_rebuild.lock AS r USING (tenant, key, id)
WHERE l.fold <> r.fold AND (l.epoch, l.seq, l.idx) = (r.epoch, r.seq, r.idx)
UNION ALL
SELECT 'flag' AS relation, tenant, key, id, l.fold AS live, r.fold AS rebuilt
FROM coord.flag AS l JOIN coord_rebuild.flag AS r USING (tenant, key, id)
WHERE l.fold <> r.fold AND (l.epoch, l.seq, l.idx) = (r.epoch, r.seq, r.idx)
UNION ALL
SELECT 'agent_registry' AS relation, tenant, key, id, l.fold AS live, r.fold AS rebuilt
FROM coord.agent_registry AS l JOIN coord_rebuild.agent_registry AS r USING (tenant, key, id)
WHERE l.fold <> r.fold AND (l.epoch, l.seq, l.idx) = (r.epoch, r.seq, r.idx)
