-- Keys of everything that is open, or is no more than what the log says: what is lost with it.
SELECT key FROM coord.task WHERE ended_at IS NULL
UNION SELECT key FROM coord.workflow WHERE ended_at IS NULL
UNION SELECT key FROM coord.handoff WHERE ended_at IS NULL
UNION SELECT key FROM coord.signal
UNION SELECT key FROM coord.lock
UNION SELECT key FROM coord.flag
UNION SELECT key FROM coord.agent_registry
