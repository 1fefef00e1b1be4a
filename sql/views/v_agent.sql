-- The registry: every agent, what it can do, and whether it is there.

CREATE OR REPLACE VIEW coord.v_agent AS
SELECT
  r.tenant, r.id AS agent, a.state, r.instances_there, r.capabilities, r.labels, r.coordinator, r.model, r.version,
  r.registered_at, a.last_seen, r.instances, r.quota
FROM coord.agent_registry AS r
LEFT JOIN coord.agent AS a ON a.tenant = r.tenant AND a.agent = r.id;

COMMENT ON VIEW coord.v_agent IS 'The registry of agents: one row an agent that ever registered.';
COMMENT ON COLUMN coord.v_agent.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_agent.agent IS 'The agent''s name.';
COMMENT ON COLUMN coord.v_agent.state IS 'alive, suspect, draining, quarantined, left or gone.';
COMMENT ON COLUMN coord.v_agent.instances_there IS 'How many of its instances are there.';
COMMENT ON COLUMN coord.v_agent.capabilities IS 'Capability to how many tasks of it at a time, all instances together.';
COMMENT ON COLUMN coord.v_agent.labels IS 'What placement and people select by.';
COMMENT ON COLUMN coord.v_agent.coordinator IS 'The agent above it.';
COMMENT ON COLUMN coord.v_agent.model IS 'What it runs on, as it says.';
COMMENT ON COLUMN coord.v_agent.version IS 'Of its program, as it says.';
COMMENT ON COLUMN coord.v_agent.registered_at IS 'Broker''s clock: its newest registration.';
COMMENT ON COLUMN coord.v_agent.last_seen IS 'Broker''s clock: the newest fact about it.';
COMMENT ON COLUMN coord.v_agent.instances IS 'Each instance: status, since, what it said about itself.';
COMMENT ON COLUMN coord.v_agent.quota IS 'Which quota it broke, while it is quarantined.';
