-- The same of agents, whose rows have no key.
INSERT INTO coord_rebuild.agent SELECT l.* FROM coord.agent AS l
WHERE NOT EXISTS (
  SELECT FROM coord_rebuild.touched AS t WHERE t.kind = 'agent' AND t.tenant = l.tenant AND t.id = l.agent
)
