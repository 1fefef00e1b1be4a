-- Where the scheduler sent tasks, and why: one row a decision, beside what became of its task.

-- Before 0.1.0 the number of a decision was taken for that of a claim.
DO $$ BEGIN
  ALTER VIEW IF EXISTS coord.v_placement RENAME COLUMN claim TO decision;
EXCEPTION WHEN undefined_column THEN NULL;
END $$;

CREATE OR REPLACE VIEW coord.v_placement AS
SELECT
  e.stored_at, e.tenant, e.key, e.id, e.detail AS decision, e.data ->> 'agent' AS placed_on, e.data ->> 'instance' AS instance,
  e.data ->> 'reason' AS reason, t.status AS task_status, t.claimant, e.data, e.epoch, e.seq,
  e.data ->> 'strategy' AS strategy,
  (e.data #>> '{candidates,0,score}')::double precision AS score,
  coalesce((e.data ->> 'considered')::integer, 0) AS considered,
  coalesce((e.data ->> 'pull')::boolean, false) AS pull,
  coalesce(t.claimant = e.data ->> 'agent' AND t.instance = e.data ->> 'instance' AND t.claimed_at >= e.stored_at, false) AS accepted,
  CASE
    WHEN t.started_first_at IS NOT NULL THEN greatest(extract(epoch FROM t.started_first_at - t.submitted_at), 0)::double precision
  END AS wait_seconds,
  CASE WHEN t.status <> 'claimed' THEN t.run_s END AS run_seconds,
  t.error, t.capability, t.priority
FROM coord.event AS e
LEFT JOIN coord.task AS t ON t.tenant = e.tenant AND t.key = e.key AND t.id = e.id
WHERE e.kind = 'task' AND e.event = 'placed';

COMMENT ON VIEW coord.v_placement IS 'Placements of tasks by the scheduler and what became of them: one row a decision.';
COMMENT ON COLUMN coord.v_placement.stored_at IS 'Broker''s clock: when it was decided. Bound it.';
COMMENT ON COLUMN coord.v_placement.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_placement.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_placement.id IS 'The task.';
COMMENT ON COLUMN coord.v_placement.decision IS 'Decisions about this task are numbered from 1.';
COMMENT ON COLUMN coord.v_placement.placed_on IS 'The agent that was chosen; null: nobody.';
COMMENT ON COLUMN coord.v_placement.instance IS 'Which instance of it.';
COMMENT ON COLUMN coord.v_placement.reason IS 'Why, in the scheduler''s words.';
COMMENT ON COLUMN coord.v_placement.task_status IS 'What became of the task; null: it is not known.';
COMMENT ON COLUMN coord.v_placement.claimant IS 'Who holds it, or held it last.';
COMMENT ON COLUMN coord.v_placement.data IS 'The whole decision, as JSON: also the candidates and their scores.';
COMMENT ON COLUMN coord.v_placement.epoch IS 'Incarnation of the log; orders rows together with seq.';
COMMENT ON COLUMN coord.v_placement.seq IS 'Sequence of its message in the log.';
COMMENT ON COLUMN coord.v_placement.strategy IS 'round_robin, least_connections, response_time, resources, label or agent.';
COMMENT ON COLUMN coord.v_placement.score IS 'Of whoever was chosen; the strategy says what it means.';
COMMENT ON COLUMN coord.v_placement.considered IS 'How many agents were eligible.';
COMMENT ON COLUMN coord.v_placement.pull IS 'Whether it was left to whoever is free first.';
COMMENT ON COLUMN coord.v_placement.accepted IS 'Whether whoever was chosen claimed it, and nobody after that.';
COMMENT ON COLUMN coord.v_placement.wait_seconds IS 'Of the task: from its submission to its first claim.';
COMMENT ON COLUMN coord.v_placement.run_seconds IS 'Of the task''s last execution, as its agent measured.';
COMMENT ON COLUMN coord.v_placement.error IS 'Kind of the task''s last failure, rejection, cancellation or expiry.';
COMMENT ON COLUMN coord.v_placement.capability IS 'What an agent must be able to do.';
COMMENT ON COLUMN coord.v_placement.priority IS 'critical, normal or batch.';
