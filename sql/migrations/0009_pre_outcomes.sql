-- Ends of tasks, handoffs and workflows, one row each: what rollups of their times are made of; and what upkeep remembers.

CREATE TABLE coord.outcome (
  stored_at  timestamptz NOT NULL CHECK (isfinite(stored_at)),
  wait_s     double precision,
  run_s      double precision,
  attempts   integer     NOT NULL,
  failures   integer     NOT NULL,
  tenant     text COLLATE "C" NOT NULL,
  kind       text COLLATE "C" NOT NULL,
  status     text COLLATE "C" NOT NULL,
  capability text COLLATE "C" NOT NULL,
  priority   text COLLATE "C" NOT NULL,
  from_agent text COLLATE "C" NOT NULL,
  agent      text COLLATE "C" NOT NULL
);

COMMENT ON TABLE coord.outcome IS
  'One row an end of a task, handoff or workflow, as its row said when it was committed; never changed. Analysts read v_outcome.';
COMMENT ON COLUMN coord.outcome.stored_at IS 'Broker''s clock: when the fact that ended it was stored.';
COMMENT ON COLUMN coord.outcome.wait_s IS
  'Seconds from the submission to the first claim, null: never claimed; of a handoff, from its offer to its end.';
COMMENT ON COLUMN coord.outcome.run_s IS
  'Seconds of the last execution, as its agent measured, else from its claim to its completion; of a workflow, all of it.';
COMMENT ON COLUMN coord.outcome.attempts IS 'Claims that were believed; of a handoff, how many were asked.';
COMMENT ON COLUMN coord.outcome.failures IS 'Executions that failed or whose agent died; of a handoff, escalations.';
COMMENT ON COLUMN coord.outcome.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.outcome.kind IS 'task, handoff or workflow.';
COMMENT ON COLUMN coord.outcome.status IS 'As what it ended.';
COMMENT ON COLUMN coord.outcome.capability IS 'A task''s or a handoff''s capability, a workflow''s name; empty: an agent was named.';
COMMENT ON COLUMN coord.outcome.priority IS 'A task''s; empty otherwise.';
COMMENT ON COLUMN coord.outcome.from_agent IS 'Who submitted or offered it.';
COMMENT ON COLUMN coord.outcome.agent IS 'Who had the last claim, or accepted; empty: nobody.';

CREATE TABLE coord.rollup (
  progress  timestamptz NOT NULL,
  shown     timestamptz NOT NULL,
  rolled_at timestamptz NOT NULL DEFAULT now(),
  rows      bigint NOT NULL DEFAULT 0,
  name      text COLLATE "C" NOT NULL PRIMARY KEY
) WITH (fillfactor = 10);

COMMENT ON TABLE coord.rollup IS
  'How far each rollup has come: moves in the transaction of its rows. See coord/store/rollups.py.';
COMMENT ON COLUMN coord.rollup.progress IS 'Everything stored before is in the rollup.';
COMMENT ON COLUMN coord.rollup.shown IS 'Buckets before are whole: views read them there, and the rest from what it is made of.';
COMMENT ON COLUMN coord.rollup.rolled_at IS 'Database''s clock: when it last moved.';
COMMENT ON COLUMN coord.rollup.rows IS 'Rows that went into it so far.';
COMMENT ON COLUMN coord.rollup.name IS 'fact_rate_1m, …: the table, or the continuous aggregate.';

CREATE TABLE coord.maintenance_step (
  started_at   timestamptz NOT NULL,
  ended_at     timestamptz NOT NULL,
  rows         bigint NOT NULL,
  bytes_before bigint,
  bytes_after  bigint,
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  batches      integer NOT NULL,
  stated       boolean NOT NULL DEFAULT false,
  job          text COLLATE "C" NOT NULL,
  relation     text COLLATE "C" NOT NULL,
  unit         text COLLATE "C" NOT NULL,
  result       text COLLATE "C" NOT NULL,
  reason       text
);
CREATE INDEX maintenance_step_time_idx ON coord.maintenance_step (ended_at);

COMMENT ON TABLE coord.maintenance_step IS
  'What coord''s maintenance did, step by step; each is stated as a fact too. `coord db policies` reads it.';
COMMENT ON COLUMN coord.maintenance_step.started_at IS 'Database''s clock.';
COMMENT ON COLUMN coord.maintenance_step.ended_at IS 'Database''s clock.';
COMMENT ON COLUMN coord.maintenance_step.rows IS 'How many rows or chunks were rolled, removed or written.';
COMMENT ON COLUMN coord.maintenance_step.bytes_before IS 'Size of the relation with its indexes; null: it was not asked for.';
COMMENT ON COLUMN coord.maintenance_step.bytes_after IS 'The same afterwards.';
COMMENT ON COLUMN coord.maintenance_step.id IS 'Its number; the id of its fact.';
COMMENT ON COLUMN coord.maintenance_step.batches IS 'Transactions it took.';
COMMENT ON COLUMN coord.maintenance_step.stated IS 'Whether the log has its fact.';
COMMENT ON COLUMN coord.maintenance_step.job IS 'rollup, retention, ended, anchors, archive, policies, …';
COMMENT ON COLUMN coord.maintenance_step.relation IS 'Which table.';
COMMENT ON COLUMN coord.maintenance_step.unit IS 'rows or chunks.';
COMMENT ON COLUMN coord.maintenance_step.result IS 'done, more (the run ended first), held, refused or failed.';
COMMENT ON COLUMN coord.maintenance_step.reason IS 'Why it was held, refused or failed.';

-- What had ended before: once, from the rows that there are.
INSERT INTO coord.outcome (stored_at, wait_s, run_s, attempts, failures, tenant, kind, status, capability, priority, from_agent, agent)
SELECT
  ended_at,
  CASE WHEN started_first_at IS NOT NULL
    THEN greatest(extract(epoch FROM started_first_at - submitted_at), 0)::double precision END,
  CASE WHEN run_s >= 0 AND run_s < 1e9 THEN run_s
    WHEN status = 'completed' AND claimed_at IS NOT NULL THEN greatest(extract(epoch FROM ended_at - claimed_at), 0)::double precision END,
  claims, failures + deaths, tenant, 'task', status, capability, priority, submitter, coalesce(claimant, '')
FROM coord.task WHERE ended_at IS NOT NULL AND status <> 'lost'
UNION ALL
SELECT
  ended_at, greatest(extract(epoch FROM ended_at - offered_at), 0)::double precision, NULL,
  n, escalations, tenant, 'handoff', status, left(coalesce(capability, ''), 64), '', offerer, coalesce(addressee, '')
FROM coord.handoff WHERE ended_at IS NOT NULL AND status <> 'lost'
UNION ALL
SELECT
  ended_at, NULL, greatest(extract(epoch FROM ended_at - started_at), 0)::double precision,
  1, 0, tenant, 'workflow', status, name, '', submitter, ''
FROM coord.workflow WHERE ended_at IS NOT NULL AND status <> 'lost';
