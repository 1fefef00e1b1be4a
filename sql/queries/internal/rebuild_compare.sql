-- Each table as it is beside as it was rebuilt, of one snapshot.
SELECT t.name AS relation, b.live, b.rebuilt, b.live_sum, b.rebuilt_sum, b.only_live, b.only_rebuilt, b.differ
FROM unnest(ARRAY['task', 'workflow', 'handoff', 'signal', 'lock', 'flag', 'agent_registry', 'agent'])
  WITH ORDINALITY AS t (name, place)
CROSS JOIN LATERAL coord.beside(format('coord.%I', t.name)::regclass, format('coord_rebuild.%I', t.name)::regclass) AS b
ORDER BY t.place
