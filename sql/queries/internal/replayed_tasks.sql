-- Tasks of a replay that have ended.
-- $1 tenant, $2 the first key, $3 the first key behind them.
SELECT t.key, t.id, t.status, t.priority, t.claimant, t.wait_seconds, t.run_seconds, t.attempts
FROM coord.v_task AS t
WHERE t.tenant = $1 AND t.key >= $2 AND t.key < $3 AND t.ended_at IS NOT NULL
