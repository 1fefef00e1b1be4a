-- One agent as it is now: whether it is there, what it says of itself, what it can do.
-- :tenant  whose fleet
-- :id      which: its name
-- state is the fleet's judgement by heartbeats; capabilities, labels and instances have those that registered.
SELECT
  s.tenant, s.agent, s.state, s.last_seen, round(s.silent_seconds::numeric, 1)::double precision AS silent_seconds, s.status,
  a.instances_there, a.capabilities, a.labels, a.coordinator, a.model, a.version, a.registered_at
FROM coord.v_agent_status AS s
LEFT JOIN coord.v_agent AS a ON a.tenant = s.tenant AND a.agent = s.agent
WHERE s.tenant = :'tenant' AND s.agent = :'id'
