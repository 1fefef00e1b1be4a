-- Every workflow as it is now, with what its tasks have come to.

CREATE OR REPLACE VIEW coord.v_workflow AS
SELECT
  w.tenant, w.key, w.id, w.status, w.name, w.version, w.submitter, w.parent, w.started_at, w.ended_at,
  greatest(extract(epoch FROM coalesce(w.ended_at, now()) - w.started_at), 0)::double precision AS seconds,
  s.tasks, s.tasks_open, s.tasks_completed, w.step, w.error, w.message, w.correlation_id, w.changed_at, w.epoch, w.seq,
  w.rerun_of
FROM coord.workflow AS w
LEFT JOIN LATERAL (
  SELECT
    count(*) AS tasks,
    count(*) FILTER (WHERE t.ended_at IS NULL) AS tasks_open,
    count(*) FILTER (WHERE t.status = 'completed') AS tasks_completed
  FROM coord.task AS t
  WHERE t.tenant = w.tenant AND t.key = w.key
) AS s ON true;

COMMENT ON VIEW coord.v_workflow IS 'Every workflow as its facts leave it, and how many tasks it has: one row a workflow.';
COMMENT ON COLUMN coord.v_workflow.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_workflow.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_workflow.id IS 'The workflow.';
COMMENT ON COLUMN coord.v_workflow.status IS 'running, compensating, completed, failed, cancelled, or lost with its log.';
COMMENT ON COLUMN coord.v_workflow.name IS 'Of its definition.';
COMMENT ON COLUMN coord.v_workflow.version IS 'Of its definition.';
COMMENT ON COLUMN coord.v_workflow.submitter IS 'Who started it.';
COMMENT ON COLUMN coord.v_workflow.parent IS 'The workflow whose step it is.';
COMMENT ON COLUMN coord.v_workflow.started_at IS 'Broker''s clock: when it was started.';
COMMENT ON COLUMN coord.v_workflow.ended_at IS 'When its outcome was known; null: it is open.';
COMMENT ON COLUMN coord.v_workflow.seconds IS 'From its start to its end, or until now.';
COMMENT ON COLUMN coord.v_workflow.tasks IS 'Tasks of its key so far.';
COMMENT ON COLUMN coord.v_workflow.tasks_open IS 'Those that have not ended.';
COMMENT ON COLUMN coord.v_workflow.tasks_completed IS 'Those that were completed.';
COMMENT ON COLUMN coord.v_workflow.step IS 'Where it failed.';
COMMENT ON COLUMN coord.v_workflow.error IS 'Kind of its failure or cancellation.';
COMMENT ON COLUMN coord.v_workflow.message IS 'The same in words.';
COMMENT ON COLUMN coord.v_workflow.correlation_id IS 'The whole conversation this belongs to.';
COMMENT ON COLUMN coord.v_workflow.changed_at IS 'Broker''s clock: its newest fact.';
COMMENT ON COLUMN coord.v_workflow.epoch IS 'Incarnation of the log; orders rows together with seq.';
COMMENT ON COLUMN coord.v_workflow.seq IS 'Sequence of its newest fact in the log.';
COMMENT ON COLUMN coord.v_workflow.rerun_of IS 'The workflow whose steps it took over; null: none.';
