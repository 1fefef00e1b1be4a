-- Live tables that have other columns or indexes than their twins: they were changed since those were made.
SELECT t.name
FROM unnest(ARRAY['task', 'workflow', 'handoff', 'signal', 'lock', 'flag', 'agent_registry', 'agent']) AS t (name)
WHERE EXISTS (
  SELECT FROM pg_attribute AS a
  WHERE a.attrelid IN (format('coord.%I', t.name)::regclass, format('coord_rebuild.%I', t.name)::regclass)
    AND a.attnum > 0 AND NOT a.attisdropped
  GROUP BY a.attname, a.atttypid, a.attnotnull HAVING count(*) <> 2
) OR (SELECT count(*) FROM pg_index AS i WHERE i.indrelid = format('coord.%I', t.name)::regclass)
  <> (SELECT count(*) FROM pg_index AS i WHERE i.indrelid = format('coord_rebuild.%I', t.name)::regclass)
