-- Every task as it is now: one row a task.

CREATE OR REPLACE VIEW coord.v_task AS
SELECT
  t.tenant, t.key, t.id, t.status, t.capability, t.queue, t.priority, t.submitter, t.claimant, t.instance,
  t.submitted_at, t.started_first_at, t.claimed_at, t.ended_at, t.retry_at, t.deadline,
  greatest(extract(epoch FROM coalesce(t.started_first_at, t.ended_at, now()) - t.submitted_at), 0)::double precision AS wait_seconds,
  CASE
    WHEN t.run_s IS NOT NULL AND t.status <> 'claimed' THEN t.run_s
    WHEN t.claimed_at IS NOT NULL AND t.status = 'claimed' THEN greatest(extract(epoch FROM now() - t.claimed_at), 0)::double precision
    WHEN t.claimed_at IS NOT NULL AND t.status = 'completed' THEN greatest(extract(epoch FROM t.ended_at - t.claimed_at), 0)::double precision
  END AS run_seconds,
  t.claims AS attempts, t.failures, t.deaths, t.redrives, t.progress, t.error, t.message, t.correlation_id,
  t.changed_at, t.epoch, t.seq, t.retries, t.timeout_s
FROM coord.task AS t;

COMMENT ON VIEW coord.v_task IS 'Every task as its facts leave it: one row a task.';
COMMENT ON COLUMN coord.v_task.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_task.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_task.id IS 'The task.';
COMMENT ON COLUMN coord.v_task.status IS 'queued, claimed, waiting, completed, rejected, failed, cancelled, expired, or lost with its log.';
COMMENT ON COLUMN coord.v_task.capability IS 'What an agent must be able to do.';
COMMENT ON COLUMN coord.v_task.queue IS 'critical, normal, batch or placed.';
COMMENT ON COLUMN coord.v_task.priority IS 'critical, normal or batch.';
COMMENT ON COLUMN coord.v_task.submitter IS 'Who submitted it.';
COMMENT ON COLUMN coord.v_task.claimant IS 'Who holds it, or held it when it ended.';
COMMENT ON COLUMN coord.v_task.instance IS 'Which instance of that agent.';
COMMENT ON COLUMN coord.v_task.submitted_at IS 'Broker''s clock: the first submission, or the newest redrive.';
COMMENT ON COLUMN coord.v_task.started_first_at IS 'When it was first claimed.';
COMMENT ON COLUMN coord.v_task.claimed_at IS 'When it was last claimed.';
COMMENT ON COLUMN coord.v_task.ended_at IS 'When it ended; null: it is open.';
COMMENT ON COLUMN coord.v_task.retry_at IS 'Waiting: not before.';
COMMENT ON COLUMN coord.v_task.deadline IS 'What has no outcome by then is expired.';
COMMENT ON COLUMN coord.v_task.wait_seconds IS 'From the submission to the first claim; until now, or its end, where there was none.';
COMMENT ON COLUMN coord.v_task.run_seconds IS 'Of the last execution, as its agent measured; of a running one until now.';
COMMENT ON COLUMN coord.v_task.attempts IS 'Claims that were believed.';
COMMENT ON COLUMN coord.v_task.failures IS 'Executions that failed, since the newest redrive.';
COMMENT ON COLUMN coord.v_task.deaths IS 'Claims whose agent died, hung or overran, since the newest redrive.';
COMMENT ON COLUMN coord.v_task.redrives IS 'How often it was submitted again after it had ended without success.';
COMMENT ON COLUMN coord.v_task.progress IS '0 to 1, as its claimant last said.';
COMMENT ON COLUMN coord.v_task.error IS 'Kind of the last failure, rejection, cancellation or expiry.';
COMMENT ON COLUMN coord.v_task.message IS 'The same in words.';
COMMENT ON COLUMN coord.v_task.correlation_id IS 'The whole conversation this belongs to.';
COMMENT ON COLUMN coord.v_task.changed_at IS 'Broker''s clock: its newest fact.';
COMMENT ON COLUMN coord.v_task.epoch IS 'Incarnation of the log; orders rows together with seq.';
COMMENT ON COLUMN coord.v_task.seq IS 'Sequence of its newest fact in the log.';
COMMENT ON COLUMN coord.v_task.retries IS 'Executions after the first that may fail: as its submission says, else its handler, else 3; null: no handler has it yet.';
COMMENT ON COLUMN coord.v_task.timeout_s IS 'Seconds that one execution may take: as its submission says, else its handler, else 600; null: no handler has it yet.';
