-- Every end of a task, handoff or workflow, for analysts.

CREATE OR REPLACE VIEW coord.v_outcome AS
SELECT
  o.tenant, o.stored_at, o.kind, o.status, o.capability, o.priority, o.from_agent, o.agent, o.wait_s, o.run_s, o.attempts, o.failures
FROM coord.outcome AS o;

COMMENT ON VIEW coord.v_outcome IS
  'One row an end of a task, handoff or workflow; one that is redriven and ends again has two. Bound stored_at; sums are in v_outcome_1h.';
COMMENT ON COLUMN coord.v_outcome.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_outcome.stored_at IS 'Broker''s clock: when the fact that ended it was stored.';
COMMENT ON COLUMN coord.v_outcome.kind IS 'task, handoff or workflow.';
COMMENT ON COLUMN coord.v_outcome.status IS 'As what it ended: completed, failed, accepted, …';
COMMENT ON COLUMN coord.v_outcome.capability IS 'A task''s or a handoff''s capability, a workflow''s name; empty: an agent was named.';
COMMENT ON COLUMN coord.v_outcome.priority IS 'A task''s; empty otherwise.';
COMMENT ON COLUMN coord.v_outcome.from_agent IS 'Who submitted or offered it.';
COMMENT ON COLUMN coord.v_outcome.agent IS 'Who had the last claim, or accepted; empty: nobody.';
COMMENT ON COLUMN coord.v_outcome.wait_s IS
  'Seconds from the submission to the first claim, null: never claimed; of a handoff, from its offer to its end.';
COMMENT ON COLUMN coord.v_outcome.run_s IS
  'Seconds of the last execution, as its agent measured, else from its claim to its completion; of a workflow, all of it.';
COMMENT ON COLUMN coord.v_outcome.attempts IS 'Claims that were believed; of a handoff, how many were asked.';
COMMENT ON COLUMN coord.v_outcome.failures IS 'Executions that failed or whose agent died; of a handoff, escalations.';
