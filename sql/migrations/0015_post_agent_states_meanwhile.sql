-- What projectors of the release before wrote of agents while 0013 was there already (docs/adr/0141): rows of the registry
-- without the state, and agents who are said to be there although nobody is.

UPDATE coord.agent AS a
SET state = CASE WHEN EXISTS (
  SELECT FROM jsonb_each(r.instances) AS i WHERE i.value ->> 'status' = 'gone'
) THEN 'gone' ELSE 'left' END
FROM coord.agent_registry AS r
WHERE r.tenant = a.tenant AND r.key = a.agent AND r.id = a.agent AND r.state IS NULL
  AND r.instances_there = 0 AND a.state NOT IN ('gone', 'left');

UPDATE coord.agent_registry AS r SET state = a.state FROM coord.agent AS a
WHERE r.tenant = a.tenant AND r.key = a.agent AND r.id = a.agent AND r.state IS NULL;
