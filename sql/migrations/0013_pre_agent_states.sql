-- An agent is what its instances are: the fold of its facts says so, not how many others the last fact counted (docs/adr/0140).

ALTER TABLE coord.agent_registry ADD COLUMN state text COLLATE "C";
ALTER TABLE coord.agent_registry ADD COLUMN quota text COLLATE "C";
COMMENT ON COLUMN coord.agent_registry.state IS 'What its instances together are: as agent.state, which it decides.';
COMMENT ON COLUMN coord.agent_registry.quota IS 'Which quota it broke, while it is quarantined.';

-- Those of whom nobody is there although their row said otherwise: no further fact of them is due.
UPDATE coord.agent AS a
SET state = CASE WHEN EXISTS (
  SELECT FROM jsonb_each(r.instances) AS i WHERE i.value ->> 'status' = 'gone'
) THEN 'gone' ELSE 'left' END
FROM coord.agent_registry AS r
WHERE r.tenant = a.tenant AND r.key = a.agent AND r.id = a.agent AND r.instances_there = 0 AND a.state NOT IN ('gone', 'left');

UPDATE coord.agent_registry AS r SET state = a.state FROM coord.agent AS a
WHERE r.tenant = a.tenant AND r.key = a.agent AND r.id = a.agent;
