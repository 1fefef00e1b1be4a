-- Where the scheduler sent tasks, and why: one row a decision.

CREATE OR REPLACE VIEW coord.v_placement AS
SELECT
  e.stored_at, e.tenant, e.key, e.id, e.detail AS claim, e.data ->> 'agent' AS placed_on, e.data ->> 'instance' AS instance,
  e.data ->> 'reason' AS reason, t.status AS task_status, t.claimant, e.data, e.epoch, e.seq
FROM coord.event AS e
LEFT JOIN coord.task AS t ON t.tenant = e.tenant AND t.key = e.key AND t.id = e.id
WHERE e.kind = 'task' AND e.event = 'placed';

COMMENT ON VIEW coord.v_placement IS 'Placements of tasks by the scheduler: one row a decision.';
COMMENT ON COLUMN coord.v_placement.stored_at IS 'Broker''s clock: when it was decided. Bound it.';
COMMENT ON COLUMN coord.v_placement.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_placement.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_placement.id IS 'The task.';
COMMENT ON COLUMN coord.v_placement.claim IS 'The claim that it is about.';
COMMENT ON COLUMN coord.v_placement.placed_on IS 'The agent that was chosen.';
COMMENT ON COLUMN coord.v_placement.instance IS 'Which instance of it.';
COMMENT ON COLUMN coord.v_placement.reason IS 'Why, in the scheduler''s words.';
COMMENT ON COLUMN coord.v_placement.task_status IS 'What became of the task; null: it is not known.';
COMMENT ON COLUMN coord.v_placement.claimant IS 'Who holds it, or held it last.';
COMMENT ON COLUMN coord.v_placement.data IS 'The whole decision, as JSON.';
COMMENT ON COLUMN coord.v_placement.epoch IS 'Incarnation of the log; orders rows together with seq.';
COMMENT ON COLUMN coord.v_placement.seq IS 'Sequence of its message in the log.';
