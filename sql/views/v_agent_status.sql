-- The fleet as it is: one row an agent.

CREATE OR REPLACE VIEW coord.v_agent_status AS
SELECT
  a.tenant,
  a.agent,
  a.state,
  a.first_seen,
  a.last_seen,
  greatest(extract(epoch FROM now() - a.last_seen), 0)::double precision AS silent_seconds,
  a.status,
  coalesce((a.status_rev ->> 'stale')::boolean, false) AS status_stale
FROM coord.agent AS a;

COMMENT ON VIEW coord.v_agent_status IS 'One row an agent, as its newest facts leave it.';
COMMENT ON COLUMN coord.v_agent_status.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_agent_status.agent IS 'The agent''s name.';
COMMENT ON COLUMN coord.v_agent_status.state IS 'alive, suspect, draining, left or gone.';
COMMENT ON COLUMN coord.v_agent_status.first_seen IS 'Broker''s clock: the first fact about it.';
COMMENT ON COLUMN coord.v_agent_status.last_seen IS 'Broker''s clock: the newest fact about it.';
COMMENT ON COLUMN coord.v_agent_status.silent_seconds IS 'Seconds from last_seen to now (database''s clock).';
COMMENT ON COLUMN coord.v_agent_status.status IS 'What it last said about itself, as JSON: load, capabilities, …';
COMMENT ON COLUMN coord.v_agent_status.status_stale IS
  'Whether it has said something since that status cannot show yet, because a change before it is missing.';
