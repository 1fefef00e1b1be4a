-- The fleet as it is: every agent, its state and how long it has been silent.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :state   only agents in this state; empty: all
-- state is the fleet's judgement by heartbeats; status is what the agent last said about itself.
SELECT a.tenant, a.agent, a.state, a.last_seen, round(a.silent_seconds::numeric, 1)::double precision AS silent_seconds, a.status
FROM coord.v_agent_status AS a
WHERE (:'tenant' = '' OR a.tenant = :'tenant') AND (:'state' = '' OR a.state = :'state')
ORDER BY a.tenant, a.agent
