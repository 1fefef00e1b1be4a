-- Workflows of a replay that have ended, and what their agents handed to each other.
-- $1 tenant, $2 the first key, $3 the first key behind them.
SELECT
  w.id, w.status,
  (SELECT count(*) FROM coord.v_handoff_state AS h WHERE h.tenant = w.tenant AND h.key = w.id AND h.status = 'accepted') AS handoffs
FROM coord.v_workflow AS w
WHERE w.tenant = $1 AND w.id >= $2 AND w.id < $3 AND w.ended_at IS NOT NULL
