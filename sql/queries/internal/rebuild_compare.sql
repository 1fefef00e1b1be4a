-- Each table as it is beside as it was rebuilt, of one snapshot: rows, a hash over all of them (64 bits a row, summed, so that
-- their order is nothing to it), and where they differ.
SELECT 'task' AS relation, count(l.tenant) AS live, count(r.tenant) AS rebuilt,
  coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0) AS live_sum,
  coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0) AS rebuilt_sum,
  count(*) FILTER (WHERE r.tenant IS NULL) AS only_live, count(*) FILTER (WHERE l.tenant IS NULL) AS only_rebuilt,
  count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r) AS differ
FROM coord.task AS l
FULL JOIN coord_rebuild.task AS r USING (tenant, key, id)
UNION ALL
SELECT 'workflow' AS relation, count(l.tenant) AS live, count(r.tenant) AS rebuilt,
  coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0) AS live_sum,
  coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0) AS rebuilt_sum,
  count(*) FILTER (WHERE r.tenant IS NULL) AS only_live, count(*) FILTER (WHERE l.tenant IS NULL) AS only_rebuilt,
  count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r) AS differ
FROM coord.workflow AS l
FULL JOIN coord_rebuild.workflow AS r USING (tenant, key, id)
UNION ALL
SELECT 'handoff' AS relation, count(l.tenant) AS live, count(r.tenant) AS rebuilt,
  coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0) AS live_sum,
  coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0) AS rebuilt_sum,
  count(*) FILTER (WHERE r.tenant IS NULL) AS only_live, count(*) FILTER (WHERE l.tenant IS NULL) AS only_rebuilt,
  count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r) AS differ
FROM coord.handoff AS l
FULL JOIN coord_rebuild.handoff AS r USING (tenant, key, id)
UNION ALL
SELECT 'signal' AS relation, count(l.tenant) AS live, count(r.tenant) AS rebuilt,
  coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0) AS live_sum,
  coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0) AS rebuilt_sum,
  count(*) FILTER (WHERE r.tenant IS NULL) AS only_live, count(*) FILTER (WHERE l.tenant IS NULL) AS only_rebuilt,
  count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r) AS differ
FROM coord.signal AS l
FULL JOIN coord_rebuild.signal AS r USING (tenant, key, id)
UNION ALL
SELECT 'lock' AS relation, count(l.tenant) AS live, count(r.tenant) AS rebuilt,
  coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0) AS live_sum,
  coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0) AS rebuilt_sum,
  count(*) FILTER (WHERE r.tenant IS NULL) AS only_live, count(*) FILTER (WHERE l.tenant IS NULL) AS only_rebuilt,
  count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r) AS differ
FROM coord.lock AS l
FULL JOIN coord_rebuild.lock AS r USING (tenant, key, id)
UNION ALL
SELECT 'flag' AS relation, count(l.tenant) AS live, count(r.tenant) AS rebuilt,
  coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0) AS live_sum,
  coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0) AS rebuilt_sum,
  count(*) FILTER (WHERE r.tenant IS NULL) AS only_live, count(*) FILTER (WHERE l.tenant IS NULL) AS only_rebuilt,
  count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r) AS differ
FROM coord.flag AS l
FULL JOIN coord_rebuild.flag AS r USING (tenant, key, id)
UNION ALL
SELECT 'agent_registry' AS relation, count(l.tenant) AS live, count(r.tenant) AS rebuilt,
  coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0) AS live_sum,
  coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0) AS rebuilt_sum,
  count(*) FILTER (WHERE r.tenant IS NULL) AS only_live, count(*) FILTER (WHERE l.tenant IS NULL) AS only_rebuilt,
  count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r) AS differ
FROM coord.agent_registry AS l
FULL JOIN coord_rebuild.agent_registry AS r USING (tenant, key, id)
UNION ALL
SELECT 'agent' AS relation, count(l.tenant) AS live, count(r.tenant) AS rebuilt,
  coalesce(sum(hash_record_extended(l, 0)::numeric) FILTER (WHERE l.tenant IS NOT NULL), 0) AS live_sum,
  coalesce(sum(hash_record_extended(r, 0)::numeric) FILTER (WHERE r.tenant IS NOT NULL), 0) AS rebuilt_sum,
  count(*) FILTER (WHERE r.tenant IS NULL) AS only_live, count(*) FILTER (WHERE l.tenant IS NULL) AS only_rebuilt,
  count(*) FILTER (WHERE l.tenant IS NOT NULL AND r.tenant IS NOT NULL AND l IS DISTINCT FROM r) AS differ
FROM coord.agent AS l
FULL JOIN coord_rebuild.agent AS r USING (tenant, agent)
