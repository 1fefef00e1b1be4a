-- The whole current truth about coord's tables.
--
-- Nobody runs this file in production: migrations/ do, and tests/schema proves that a migrated
-- database equals one made from this file, on every edition.  Change both together.
--
-- What is not here, because it is applied again on every `coord db migrate` instead of once:
--   editions/   what the database's licence level makes of these tables (hypertables or not)
--   policies/   retention and compression
--   views/      what analysts read; roles/ who may read it
--
-- Columns are declared widest first: PostgreSQL aligns each, and this order saves 16 bytes a row.
--
-- Tokens are ASCII by protocol, so they are COLLATE "C": an index on them compares bytes whatever
-- the database's locale is (en_US.UTF-8 would make every comparison a call of strcoll), and
-- their order is the one the projector sorts by before it takes row locks.

CREATE SCHEMA IF NOT EXISTS coord;
COMMENT ON SCHEMA coord IS
  'The projection of coord''s log. Read the views (v_…); the tables belong to the projector.';

-- --- the ledger of migrations ------------------------------------------------------------

CREATE TABLE coord.migration (
  number      integer     NOT NULL PRIMARY KEY,
  name        text        NOT NULL,
  phase       text        NOT NULL CHECK (phase IN ('pre', 'post')),
  sha256      text        NOT NULL,
  applied_at  timestamptz NOT NULL DEFAULT now(),
  applied_by  text        NOT NULL DEFAULT current_user,
  duration_ms integer     NOT NULL
);
COMMENT ON TABLE coord.migration IS
  'Migrations that were applied to this database; `coord db status` compares them with the files.';
COMMENT ON COLUMN coord.migration.sha256 IS 'Of the file as it was applied: an edited file is refused.';

-- --- facts -------------------------------------------------------------------------------

-- No primary key, no unique index, no trigger, on purpose: exactly once comes from the
-- checkpoint, which commits with the rows; a unique index would cost a third of COPY and would
-- switch direct-compress COPY off.  The identity of a row is (epoch, seq, idx).
CREATE TABLE coord.event (
  stored_at      timestamptz NOT NULL CHECK (isfinite(stored_at)),
  occurred_at    timestamptz NOT NULL CHECK (isfinite(occurred_at)),
  -- Not clock_timestamp(): a volatile default makes PostgreSQL's COPY insert row by row.
  projected_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
  seq            bigint      NOT NULL,
  epoch          integer     NOT NULL,
  idx            integer     NOT NULL,
  schema         integer     NOT NULL,
  partition      smallint    NOT NULL,
  tenant         text COLLATE "C"        NOT NULL,
  agent          text COLLATE "C"        NOT NULL,
  key            text COLLATE "C"        NOT NULL,
  kind           text COLLATE "C"        NOT NULL,
  id             text COLLATE "C"        NOT NULL,
  event          text COLLATE "C"        NOT NULL,
  detail         text COLLATE "C"        NOT NULL,
  event_id       text        NOT NULL,
  type           text        NOT NULL,
  correlation_id text,
  causation_id   text,
  traceparent    text,
  data           jsonb
);
-- What one agent did lately, and everything about one piece of work, in the order of the log.
-- What differs stands first: a descent then compares one column and reads no attribute behind a text of any
-- length (a twentieth of what COPY costs the server).  Questions name tenant and agent, or tenant and key.
CREATE INDEX event_agent_idx ON coord.event (agent, tenant, stored_at DESC);
CREATE INDEX event_key_idx ON coord.event (key, tenant, stored_at DESC);

COMMENT ON TABLE coord.event IS 'Every fact of the log, once, in the order of its key. Analysts read v_event.';
COMMENT ON COLUMN coord.event.stored_at IS
  'Broker''s clock: when the log stored it. The time to filter and partition by.';
COMMENT ON COLUMN coord.event.occurred_at IS 'Agent''s clock: when it says it happened; may be years off.';
COMMENT ON COLUMN coord.event.projected_at IS 'Database''s clock: when the statement that wrote the row began.';
COMMENT ON COLUMN coord.event.seq IS 'Sequence of the message in the stream EVENTS.';
COMMENT ON COLUMN coord.event.epoch IS
  'Incarnation of the stream; (epoch, seq, idx) is the identity of the row and the order of the log.';
COMMENT ON COLUMN coord.event.idx IS 'Place in the message''s frame; 0 for a single fact.';
COMMENT ON COLUMN coord.event.schema IS 'Version of the payload''s schema, as its author stated it.';
COMMENT ON COLUMN coord.event.partition IS 'Partition of the log: FNV-1a of key, mod 16.';
COMMENT ON COLUMN coord.event.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.event.agent IS 'Author of the fact.';
COMMENT ON COLUMN coord.event.key IS 'Ordering key: everything about one piece of work carries one key.';
COMMENT ON COLUMN coord.event.kind IS 'Kind of entity the fact is about: task, agent, handoff, file, …';
COMMENT ON COLUMN coord.event.id IS 'The entity: (tenant, key, kind, id).';
COMMENT ON COLUMN coord.event.event IS 'What happened, past tense: submitted, claimed, completed, …';
COMMENT ON COLUMN coord.event.detail IS 'Further tokens of the subject, joined by dots; empty when there are none.';
COMMENT ON COLUMN coord.event.event_id IS
  'The author''s id of the fact; in a frame, with /index. Unique per agent, by the author''s promise only.';
COMMENT ON COLUMN coord.event.type IS 'CloudEvents type; coord.{kind}.{event} unless the author named another.';
COMMENT ON COLUMN coord.event.correlation_id IS 'The whole conversation this belongs to.';
COMMENT ON COLUMN coord.event.causation_id IS 'event_id of the direct cause.';
COMMENT ON COLUMN coord.event.traceparent IS 'W3C trace context, as received.';
COMMENT ON COLUMN coord.event.data IS 'What the author said; SQL null or JSON null when nothing.';

-- --- telemetry ---------------------------------------------------------------------------

CREATE TABLE coord.metric_sample (
  stored_at    timestamptz      NOT NULL CHECK (isfinite(stored_at)),
  occurred_at  timestamptz      NOT NULL CHECK (isfinite(occurred_at)),
  projected_at timestamptz      NOT NULL DEFAULT statement_timestamp(),
  value        double precision NOT NULL,
  seq          bigint           NOT NULL,
  epoch        integer          NOT NULL,
  idx          integer          NOT NULL,
  partition    smallint         NOT NULL,
  tenant       text COLLATE "C"             NOT NULL,
  agent        text COLLATE "C"             NOT NULL,
  series       text COLLATE "C"             NOT NULL,
  data         jsonb
);
-- One series of one agent over time.
CREATE INDEX metric_sample_series_idx ON coord.metric_sample (tenant, agent, series, stored_at);

COMMENT ON TABLE coord.metric_sample IS 'Every telemetry sample that the stream TELEMETRY kept until it was projected.';
COMMENT ON COLUMN coord.metric_sample.stored_at IS 'Broker''s clock: when the sample''s message was stored.';
COMMENT ON COLUMN coord.metric_sample.occurred_at IS 'Agent''s clock: when it measured.';
COMMENT ON COLUMN coord.metric_sample.projected_at IS 'Database''s clock: when the statement that wrote the row began.';
COMMENT ON COLUMN coord.metric_sample.value IS 'The measured value.';
COMMENT ON COLUMN coord.metric_sample.seq IS 'Sequence of the message in the stream TELEMETRY.';
COMMENT ON COLUMN coord.metric_sample.epoch IS 'Incarnation of the stream; (epoch, seq, idx) is the identity of the row.';
COMMENT ON COLUMN coord.metric_sample.idx IS 'Place in the message''s frame.';
COMMENT ON COLUMN coord.metric_sample.partition IS 'Partition of the stream: FNV-1a of agent, mod 16.';
COMMENT ON COLUMN coord.metric_sample.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.metric_sample.agent IS 'Who measured.';
COMMENT ON COLUMN coord.metric_sample.series IS 'What was measured: cpu, llm.tokens, …';
COMMENT ON COLUMN coord.metric_sample.data IS 'Labels and whatever else came with the value; usually null.';

-- --- ends --------------------------------------------------------------------------------

-- Written by the statements that write the rows of tasks, handoffs and workflows, in their transaction; no index
-- but the one on its time (editions/).
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

-- --- upkeep --------------------------------------------------------------------------------

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

-- --- agents ------------------------------------------------------------------------------

-- One row an agent, updated in place many times a second: room on each page keeps updates
-- inside it (HOT), so neither the index nor the table grows.
CREATE TABLE coord.agent (
  first_seen timestamptz NOT NULL,
  last_seen  timestamptz NOT NULL,
  seq        bigint      NOT NULL,
  epoch      integer     NOT NULL,
  idx        integer     NOT NULL,
  tenant     text COLLATE "C"        NOT NULL,
  agent      text COLLATE "C"        NOT NULL,
  state      text COLLATE "C"        NOT NULL,
  status     jsonb,
  status_rev jsonb,
  PRIMARY KEY (tenant, agent)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

COMMENT ON TABLE coord.agent IS 'Each agent as its newest facts leave it. Analysts read v_agent_status.';
COMMENT ON COLUMN coord.agent.first_seen IS 'Broker''s clock: its first fact.';
COMMENT ON COLUMN coord.agent.last_seen IS 'Broker''s clock: the newest fact about it.';
COMMENT ON COLUMN coord.agent.seq IS 'Where in the log the newest fact about it stands; an older one never overwrites.';
COMMENT ON COLUMN coord.agent.epoch IS 'See seq.';
COMMENT ON COLUMN coord.agent.idx IS 'See seq.';
COMMENT ON COLUMN coord.agent.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.agent.agent IS 'The agent''s name.';
COMMENT ON COLUMN coord.agent.state IS 'alive, suspect, draining, quarantined, left or gone.';
COMMENT ON COLUMN coord.agent.status IS 'What it last said about itself.';
COMMENT ON COLUMN coord.agent.status_rev IS
  'Run and number of the statement that status is, and the changes that wait for a missing one; null: a plain status.';

-- --- entities, as the fold of their facts leaves them (docs/adr/0059) ----------------------

CREATE TABLE coord.task (
  changed_at       timestamptz NOT NULL,
  submitted_at     timestamptz NOT NULL,
  started_first_at timestamptz,
  claimed_at       timestamptz,
  retry_at         timestamptz,
  ended_at         timestamptz,
  deadline         timestamptz,
  run_s            double precision,
  progress         double precision,
  seq              bigint NOT NULL,
  epoch            integer NOT NULL,
  idx              integer NOT NULL,
  claims           integer NOT NULL,
  failures         integer NOT NULL,
  deaths           integer NOT NULL,
  redrives         integer NOT NULL,
  tenant           text COLLATE "C" NOT NULL,
  key              text COLLATE "C" NOT NULL,
  id               text COLLATE "C" NOT NULL,
  status           text COLLATE "C" NOT NULL,
  capability       text COLLATE "C" NOT NULL,
  queue            text COLLATE "C" NOT NULL,
  priority         text COLLATE "C" NOT NULL,
  submitter        text COLLATE "C" NOT NULL,
  claimant         text COLLATE "C",
  instance         text COLLATE "C",
  error            text,
  message          text,
  correlation_id   text,
  fold             bytea NOT NULL,
  retries          integer,
  timeout_s        double precision,
  PRIMARY KEY (tenant, key, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX task_open_idx ON coord.task (tenant, capability, submitted_at) WHERE ended_at IS NULL;
CREATE INDEX task_time_idx ON coord.task (submitted_at);

COMMENT ON TABLE coord.task IS 'Each task as its facts leave it. Analysts read v_task.';
COMMENT ON COLUMN coord.task.changed_at IS 'Broker''s clock: its newest fact that was believed.';
COMMENT ON COLUMN coord.task.submitted_at IS 'Broker''s clock: the first submission, or the newest redrive.';
COMMENT ON COLUMN coord.task.started_first_at IS 'When it was first claimed; null: never.';
COMMENT ON COLUMN coord.task.claimed_at IS 'When it was last claimed.';
COMMENT ON COLUMN coord.task.retry_at IS 'Waiting: not before.';
COMMENT ON COLUMN coord.task.ended_at IS 'When it ended; null: it is open.';
COMMENT ON COLUMN coord.task.deadline IS 'What has no outcome by then is expired; null: none.';
COMMENT ON COLUMN coord.task.run_s IS 'Seconds the last execution ran, as its agent measured.';
COMMENT ON COLUMN coord.task.progress IS '0 to 1, as its claimant last said.';
COMMENT ON COLUMN coord.task.seq IS 'Where in the log that fact stands; an older one changes nothing.';
COMMENT ON COLUMN coord.task.epoch IS 'See seq.';
COMMENT ON COLUMN coord.task.idx IS 'See seq.';
COMMENT ON COLUMN coord.task.claims IS 'Claims that were believed.';
COMMENT ON COLUMN coord.task.failures IS 'Executions that failed, since the newest redrive.';
COMMENT ON COLUMN coord.task.deaths IS 'Claims whose agent died, hung or overran, since the newest redrive.';
COMMENT ON COLUMN coord.task.redrives IS 'How often it was submitted again after it had ended without success.';
COMMENT ON COLUMN coord.task.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.task.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.task.id IS 'The task.';
COMMENT ON COLUMN coord.task.status IS
  'queued, claimed, waiting, completed, rejected, failed, cancelled or expired; lost: the log that held it is gone.';
COMMENT ON COLUMN coord.task.capability IS 'What an agent must be able to do.';
COMMENT ON COLUMN coord.task.queue IS 'critical, normal, batch or placed.';
COMMENT ON COLUMN coord.task.priority IS 'critical, normal or batch.';
COMMENT ON COLUMN coord.task.submitter IS 'Who submitted it.';
COMMENT ON COLUMN coord.task.claimant IS 'Who holds it, or held it last.';
COMMENT ON COLUMN coord.task.instance IS 'Which instance of that agent.';
COMMENT ON COLUMN coord.task.error IS 'Kind of the last failure, rejection, cancellation or expiry.';
COMMENT ON COLUMN coord.task.message IS 'The same in words.';
COMMENT ON COLUMN coord.task.correlation_id IS 'The whole conversation this belongs to.';
COMMENT ON COLUMN coord.task.fold IS 'The whole state as coord''s fold leaves it, MessagePack: what the projector goes on from.';
COMMENT ON COLUMN coord.task.retries IS 'Failures that it may have before the last one; null: not known before it is claimed.';
COMMENT ON COLUMN coord.task.timeout_s IS 'Seconds that one execution may take; null: not known before it is claimed.';

CREATE TABLE coord.workflow (
  changed_at     timestamptz NOT NULL,
  started_at     timestamptz NOT NULL,
  ended_at       timestamptz,
  seq            bigint NOT NULL,
  epoch          integer NOT NULL,
  idx            integer NOT NULL,
  tenant         text COLLATE "C" NOT NULL,
  key            text COLLATE "C" NOT NULL,
  id             text COLLATE "C" NOT NULL,
  status         text COLLATE "C" NOT NULL,
  name           text COLLATE "C" NOT NULL,
  version        text NOT NULL,
  submitter      text COLLATE "C" NOT NULL,
  parent         text,
  step           text,
  error          text,
  message        text,
  correlation_id text,
  fold           bytea NOT NULL,
  rerun_of       text,
  PRIMARY KEY (tenant, key, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX workflow_open_idx ON coord.workflow (tenant, started_at) WHERE ended_at IS NULL;
CREATE INDEX workflow_time_idx ON coord.workflow (started_at);

COMMENT ON TABLE coord.workflow IS 'Each workflow as its own facts leave it. Analysts read v_workflow.';
COMMENT ON COLUMN coord.workflow.changed_at IS 'Broker''s clock: its newest fact that was believed.';
COMMENT ON COLUMN coord.workflow.started_at IS 'Broker''s clock: when it was started.';
COMMENT ON COLUMN coord.workflow.ended_at IS 'When its outcome was known; null: it is open.';
COMMENT ON COLUMN coord.workflow.seq IS 'Where in the log that fact stands; an older one changes nothing.';
COMMENT ON COLUMN coord.workflow.epoch IS 'See seq.';
COMMENT ON COLUMN coord.workflow.idx IS 'See seq.';
COMMENT ON COLUMN coord.workflow.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.workflow.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.workflow.id IS 'The workflow.';
COMMENT ON COLUMN coord.workflow.status IS
  'running, compensating, completed, failed or cancelled; lost: the log that held it is gone.';
COMMENT ON COLUMN coord.workflow.name IS 'Of its definition.';
COMMENT ON COLUMN coord.workflow.version IS 'Of its definition.';
COMMENT ON COLUMN coord.workflow.submitter IS 'Who started it.';
COMMENT ON COLUMN coord.workflow.parent IS 'The workflow whose step it is; null: none.';
COMMENT ON COLUMN coord.workflow.step IS 'Where it failed.';
COMMENT ON COLUMN coord.workflow.error IS 'Kind of its failure or cancellation.';
COMMENT ON COLUMN coord.workflow.message IS 'The same in words.';
COMMENT ON COLUMN coord.workflow.correlation_id IS 'The whole conversation this belongs to.';
COMMENT ON COLUMN coord.workflow.rerun_of IS 'The workflow whose steps it took over; null: none.';
COMMENT ON COLUMN coord.workflow.fold IS 'The whole state as coord''s fold leaves it, MessagePack: what the projector goes on from.';

CREATE TABLE coord.handoff (
  changed_at  timestamptz NOT NULL,
  offered_at  timestamptz NOT NULL,
  since       timestamptz NOT NULL,
  answer_by   timestamptz,
  ended_at    timestamptz,
  seq         bigint NOT NULL,
  epoch       integer NOT NULL,
  idx         integer NOT NULL,
  n           integer NOT NULL,
  escalations integer NOT NULL,
  tenant      text COLLATE "C" NOT NULL,
  key         text COLLATE "C" NOT NULL,
  id          text COLLATE "C" NOT NULL,
  status      text COLLATE "C" NOT NULL,
  offerer     text COLLATE "C" NOT NULL,
  addressee   text COLLATE "C",
  instance    text COLLATE "C",
  capability  text COLLATE "C",
  reason      text,
  fold        bytea NOT NULL,
  PRIMARY KEY (tenant, key, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX handoff_open_idx ON coord.handoff (tenant, offered_at) WHERE ended_at IS NULL;
CREATE INDEX handoff_time_idx ON coord.handoff (offered_at);

COMMENT ON TABLE coord.handoff IS 'Each handoff as its facts leave it. Analysts read v_handoff_state.';
COMMENT ON COLUMN coord.handoff.changed_at IS 'Broker''s clock: its newest fact that was believed.';
COMMENT ON COLUMN coord.handoff.offered_at IS 'Broker''s clock: when it was offered.';
COMMENT ON COLUMN coord.handoff.since IS 'When its status, or its step, began.';
COMMENT ON COLUMN coord.handoff.answer_by IS 'When the step is given up.';
COMMENT ON COLUMN coord.handoff.ended_at IS 'When it was settled; null: it is open.';
COMMENT ON COLUMN coord.handoff.seq IS 'Where in the log that fact stands; an older one changes nothing.';
COMMENT ON COLUMN coord.handoff.epoch IS 'See seq.';
COMMENT ON COLUMN coord.handoff.idx IS 'See seq.';
COMMENT ON COLUMN coord.handoff.n IS 'The step: how many were asked.';
COMMENT ON COLUMN coord.handoff.escalations IS 'How often it went to a coordinator.';
COMMENT ON COLUMN coord.handoff.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.handoff.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.handoff.id IS 'The handoff.';
COMMENT ON COLUMN coord.handoff.status IS
  'seeking, offered, accepted, withdrawn or expired; lost: the log that held it is gone.';
COMMENT ON COLUMN coord.handoff.offerer IS 'Who offered it.';
COMMENT ON COLUMN coord.handoff.addressee IS 'Who is asked, or has accepted; null: nobody is.';
COMMENT ON COLUMN coord.handoff.instance IS 'Which instance of that agent.';
COMMENT ON COLUMN coord.handoff.capability IS 'What whoever takes it must be able to do; null: it was offered to an agent.';
COMMENT ON COLUMN coord.handoff.reason IS 'Of the last refusal, withdrawal or expiry.';
COMMENT ON COLUMN coord.handoff.fold IS 'The whole state as coord''s fold leaves it, MessagePack: what the projector goes on from.';

CREATE TABLE coord.signal (
  changed_at timestamptz NOT NULL,
  raised_at  timestamptz,
  seq        bigint NOT NULL,
  epoch      integer NOT NULL,
  idx        integer NOT NULL,
  waiting    integer NOT NULL,
  tenant     text COLLATE "C" NOT NULL,
  key        text COLLATE "C" NOT NULL,
  id         text COLLATE "C" NOT NULL,
  raised_by  text COLLATE "C",
  waits      jsonb NOT NULL,
  fold       bytea NOT NULL,
  PRIMARY KEY (tenant, key, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX signal_waiting_idx ON coord.signal (tenant) WHERE waiting > 0;

COMMENT ON TABLE coord.signal IS 'Each signal, and who waits for it. Analysts read v_signal and v_waiting.';
COMMENT ON COLUMN coord.signal.changed_at IS 'Broker''s clock: its newest fact that was believed.';
COMMENT ON COLUMN coord.signal.raised_at IS 'Broker''s clock: when it was raised; null: it is not.';
COMMENT ON COLUMN coord.signal.seq IS 'Where in the log that fact stands; an older one changes nothing.';
COMMENT ON COLUMN coord.signal.epoch IS 'See seq.';
COMMENT ON COLUMN coord.signal.idx IS 'See seq.';
COMMENT ON COLUMN coord.signal.waiting IS 'How many wait for it.';
COMMENT ON COLUMN coord.signal.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.signal.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.signal.id IS 'The signal''s name.';
COMMENT ON COLUMN coord.signal.raised_by IS 'Who raised it.';
COMMENT ON COLUMN coord.signal.waits IS 'Who waits for it, by the wait''s token.';
COMMENT ON COLUMN coord.signal.fold IS 'The whole state as coord''s fold leaves it, MessagePack: what the projector goes on from.';

CREATE TABLE coord.lock (
  changed_at timestamptz NOT NULL,
  seq        bigint NOT NULL,
  epoch      integer NOT NULL,
  idx        integer NOT NULL,
  permits    integer NOT NULL,
  holding    integer NOT NULL,
  waiting    integer NOT NULL,
  tenant     text COLLATE "C" NOT NULL,
  key        text COLLATE "C" NOT NULL,
  id         text COLLATE "C" NOT NULL,
  requests   jsonb NOT NULL,
  fold       bytea NOT NULL,
  PRIMARY KEY (tenant, key, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX lock_waiting_idx ON coord.lock (tenant) WHERE waiting > 0;

COMMENT ON TABLE coord.lock IS 'Each lock, who holds it and who waits. Analysts read v_lock and v_waiting.';
COMMENT ON COLUMN coord.lock.changed_at IS 'Broker''s clock: its newest fact that was believed.';
COMMENT ON COLUMN coord.lock.seq IS 'Where in the log that fact stands; an older one changes nothing.';
COMMENT ON COLUMN coord.lock.epoch IS 'See seq.';
COMMENT ON COLUMN coord.lock.idx IS 'See seq.';
COMMENT ON COLUMN coord.lock.permits IS 'How many may hold it at a time.';
COMMENT ON COLUMN coord.lock.holding IS 'How many hold it.';
COMMENT ON COLUMN coord.lock.waiting IS 'How many wait for it.';
COMMENT ON COLUMN coord.lock.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.lock.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.lock.id IS 'The lock''s name.';
COMMENT ON COLUMN coord.lock.requests IS 'Who holds it or waits, by token, with the fencing number as epoch.';
COMMENT ON COLUMN coord.lock.fold IS 'The whole state as coord''s fold leaves it, MessagePack: what the projector goes on from.';

CREATE TABLE coord.flag (
  changed_at timestamptz NOT NULL,
  set_at     timestamptz NOT NULL,
  percentage double precision,
  seq        bigint NOT NULL,
  epoch      integer NOT NULL,
  idx        integer NOT NULL,
  changes    integer NOT NULL,
  enabled    boolean,
  tenant     text COLLATE "C" NOT NULL,
  key        text COLLATE "C" NOT NULL,
  id         text COLLATE "C" NOT NULL,
  set_by     text COLLATE "C" NOT NULL,
  rules      jsonb,
  fold       bytea NOT NULL,
  PRIMARY KEY (tenant, key, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON TABLE coord.flag IS 'Each feature flag as it was last set.';
COMMENT ON COLUMN coord.flag.changed_at IS 'Broker''s clock: its newest fact that was believed.';
COMMENT ON COLUMN coord.flag.set_at IS 'Broker''s clock: the last change.';
COMMENT ON COLUMN coord.flag.percentage IS 'Of subjects for which it is on where no rule fits; null: it was removed.';
COMMENT ON COLUMN coord.flag.seq IS 'Where in the log that fact stands; an older one changes nothing.';
COMMENT ON COLUMN coord.flag.epoch IS 'See seq.';
COMMENT ON COLUMN coord.flag.idx IS 'See seq.';
COMMENT ON COLUMN coord.flag.changes IS 'How often it was changed.';
COMMENT ON COLUMN coord.flag.enabled IS 'false: off for everybody; null: it was removed.';
COMMENT ON COLUMN coord.flag.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.flag.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.flag.id IS 'The flag''s name.';
COMMENT ON COLUMN coord.flag.set_by IS 'Who changed it last.';
COMMENT ON COLUMN coord.flag.rules IS 'The first that fits decides.';
COMMENT ON COLUMN coord.flag.fold IS 'The whole state as coord''s fold leaves it, MessagePack: what the projector goes on from.';

CREATE TABLE coord.agent_registry (
  changed_at      timestamptz NOT NULL,
  registered_at   timestamptz,
  seq             bigint NOT NULL,
  epoch           integer NOT NULL,
  idx             integer NOT NULL,
  instances_there integer NOT NULL,
  tenant          text COLLATE "C" NOT NULL,
  key             text COLLATE "C" NOT NULL,
  id              text COLLATE "C" NOT NULL,
  coordinator     text COLLATE "C",
  model           text,
  version         text,
  capabilities    jsonb NOT NULL,
  labels          jsonb NOT NULL,
  instances       jsonb NOT NULL,
  fold            bytea NOT NULL,
  state           text COLLATE "C",
  quota           text COLLATE "C",
  PRIMARY KEY (tenant, key, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON TABLE coord.agent_registry IS 'What each agent said it can do, by instance. Analysts read v_agent.';
COMMENT ON COLUMN coord.agent_registry.changed_at IS 'Broker''s clock: its newest fact that was believed.';
COMMENT ON COLUMN coord.agent_registry.registered_at IS 'Broker''s clock: its newest registration.';
COMMENT ON COLUMN coord.agent_registry.seq IS 'Where in the log that fact stands; an older one changes nothing.';
COMMENT ON COLUMN coord.agent_registry.epoch IS 'See seq.';
COMMENT ON COLUMN coord.agent_registry.idx IS 'See seq.';
COMMENT ON COLUMN coord.agent_registry.instances_there IS 'How many of its instances are there.';
COMMENT ON COLUMN coord.agent_registry.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.agent_registry.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.agent_registry.id IS 'The agent''s name.';
COMMENT ON COLUMN coord.agent_registry.coordinator IS 'The agent above it.';
COMMENT ON COLUMN coord.agent_registry.model IS 'What it runs on, as it says.';
COMMENT ON COLUMN coord.agent_registry.version IS 'Of its program, as it says.';
COMMENT ON COLUMN coord.agent_registry.capabilities IS 'Capability to how many tasks of it at a time, all instances that are there together.';
COMMENT ON COLUMN coord.agent_registry.labels IS 'What placement and people select by, of the newest registration.';
COMMENT ON COLUMN coord.agent_registry.instances IS 'Each instance: state, since, capabilities, labels.';
COMMENT ON COLUMN coord.agent_registry.fold IS 'The whole state as coord''s fold leaves it, MessagePack: what the projector goes on from.';
COMMENT ON COLUMN coord.agent_registry.state IS 'What its instances together are: as agent.state, which it decides.';
COMMENT ON COLUMN coord.agent_registry.quota IS 'Which quota it broke, while it is quarantined.';

-- --- dead letters ------------------------------------------------------------------------

CREATE TABLE coord.dead_letter (
  stored_at  timestamptz NOT NULL,
  dead_at    timestamptz NOT NULL DEFAULT now(),
  seq        bigint      NOT NULL,
  epoch      integer     NOT NULL,
  idx        integer     NOT NULL,
  body_bytes integer     NOT NULL,
  partition  smallint    NOT NULL,
  stream     text COLLATE "C"        NOT NULL,
  subject    text        NOT NULL,
  tenant     text COLLATE "C",
  agent      text COLLATE "C",
  code       text COLLATE "C"        NOT NULL,
  reason     text        NOT NULL,
  headers    text,
  body       bytea       NOT NULL,
  PRIMARY KEY (stream, epoch, seq, idx)
);
CREATE INDEX dead_letter_time_idx ON coord.dead_letter (dead_at DESC);

COMMENT ON TABLE coord.dead_letter IS 'Messages and frame entries that could not be believed, with the reason.';
COMMENT ON COLUMN coord.dead_letter.stored_at IS 'Broker''s clock: when the message was stored.';
COMMENT ON COLUMN coord.dead_letter.dead_at IS 'Database''s clock: when it was parked.';
COMMENT ON COLUMN coord.dead_letter.seq IS 'Sequence of the message in its stream.';
COMMENT ON COLUMN coord.dead_letter.epoch IS 'Incarnation of the stream.';
COMMENT ON COLUMN coord.dead_letter.idx IS 'Entry of the frame; 0 for a whole message.';
COMMENT ON COLUMN coord.dead_letter.body_bytes IS 'Size of the body as it came; more than length(body) when it was cut.';
COMMENT ON COLUMN coord.dead_letter.partition IS 'Partition that parked it.';
COMMENT ON COLUMN coord.dead_letter.stream IS 'EVENTS or TELEMETRY.';
COMMENT ON COLUMN coord.dead_letter.subject IS 'Stored subject; bytes that are no text are escaped.';
COMMENT ON COLUMN coord.dead_letter.tenant IS 'From the subject, if that could be read.';
COMMENT ON COLUMN coord.dead_letter.agent IS 'From the subject, if that could be read.';
COMMENT ON COLUMN coord.dead_letter.code IS 'The error''s stable code.';
COMMENT ON COLUMN coord.dead_letter.reason IS 'The error in words.';
COMMENT ON COLUMN coord.dead_letter.headers IS 'The message''s headers as they came; bytes that are no text are escaped.';
COMMENT ON COLUMN coord.dead_letter.body IS 'The body, up to 64 KiB; the DLQ stream has as much as fits in a message.';

-- --- checkpoints -------------------------------------------------------------------------

-- 32 rows, updated by every transaction: nearly empty pages keep every update HOT, and
-- vacuuming by count keeps the table at a few pages for ever.
CREATE TABLE coord.checkpoint (
  stream_created timestamptz NOT NULL,
  stored_at      timestamptz,
  updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  seq            bigint      NOT NULL CHECK (seq >= 0),
  pending        bigint      NOT NULL DEFAULT 0 CHECK (pending >= 0),
  epoch          integer     NOT NULL CHECK (epoch >= 1),
  partition      smallint    NOT NULL,
  stream         text COLLATE "C"        NOT NULL,
  digest         bigint      NOT NULL DEFAULT 0 CHECK (digest BETWEEN 0 AND 4294967295),
  messages       bigint      NOT NULL DEFAULT 0 CHECK (messages >= 0),
  PRIMARY KEY (stream, partition)
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE coord.checkpoint IS
  'Up to where each partition is in the tables; moves in the transaction of the rows. Analysts read v_projection_lag.';
COMMENT ON COLUMN coord.checkpoint.stream_created IS 'Broker''s creation time of the stream: its identity.';
COMMENT ON COLUMN coord.checkpoint.stored_at IS 'Broker''s time of the message at seq; null when there was none to read.';
COMMENT ON COLUMN coord.checkpoint.updated_at IS 'Database''s clock: when a projector last moved or confirmed it.';
COMMENT ON COLUMN coord.checkpoint.seq IS 'Everything of the partition up to this stream sequence is committed; 0: nothing.';
COMMENT ON COLUMN coord.checkpoint.pending IS 'Messages of the partition still waiting when it was updated.';
COMMENT ON COLUMN coord.checkpoint.epoch IS 'Incarnation of the stream, from 1; the operator opens the next one.';
COMMENT ON COLUMN coord.checkpoint.partition IS '0 to 15.';
COMMENT ON COLUMN coord.checkpoint.stream IS 'EVENTS or TELEMETRY.';
COMMENT ON COLUMN coord.checkpoint.digest IS 'Running digest of every message projected in this epoch: see coord/core/chain.py.';
COMMENT ON COLUMN coord.checkpoint.messages IS 'How many messages have gone into digest.';

-- --- epochs that an operator opened (docs/adr/0095) ----------------------------------------

-- A few rows in a system's life: who makes the tables anew must know where what was open was lost.
CREATE TABLE coord.epoch (
  opened_at      timestamptz NOT NULL DEFAULT now(),
  stream_created timestamptz NOT NULL,
  seq            bigint      NOT NULL CHECK (seq >= 0),
  epoch          integer     NOT NULL CHECK (epoch >= 1),
  partition      smallint    NOT NULL,
  replaced       boolean     NOT NULL,
  stream         text COLLATE "C"        NOT NULL,
  PRIMARY KEY (stream, partition, epoch)
);

COMMENT ON TABLE coord.epoch IS 'Epochs that an operator opened with `coord projection new-epoch`; the first of a stream is not among them.';
COMMENT ON COLUMN coord.epoch.opened_at IS 'Database''s clock: when it was decided.';
COMMENT ON COLUMN coord.epoch.stream_created IS 'Broker''s creation time of the stream that it is of.';
COMMENT ON COLUMN coord.epoch.seq IS 'The partition went on behind this stream sequence.';
COMMENT ON COLUMN coord.epoch.epoch IS 'Incarnation of the stream.';
COMMENT ON COLUMN coord.epoch.partition IS '0 to 15.';
COMMENT ON COLUMN coord.epoch.replaced IS 'Whether it is another log than the one before: what was open in that one was lost then.';
COMMENT ON COLUMN coord.epoch.stream IS 'EVENTS or TELEMETRY.';

-- --- the chain of what was projected (docs/adr/0032) --------------------------------------

-- About one row a thousand messages, written with their rows; removed when no window could hold them any more.
CREATE TABLE coord.audit_anchor (
  anchored_at timestamptz NOT NULL DEFAULT statement_timestamp(),
  stored_at   timestamptz,
  seq         bigint      NOT NULL CHECK (seq >= 0),
  messages    bigint      NOT NULL CHECK (messages >= 0),
  digest      bigint      NOT NULL CHECK (digest BETWEEN 0 AND 4294967295),
  epoch       integer     NOT NULL CHECK (epoch >= 1),
  partition   smallint    NOT NULL,
  stream      text COLLATE "C"        NOT NULL,
  PRIMARY KEY (stream, partition, epoch, seq)
);
CREATE INDEX audit_anchor_time_idx ON coord.audit_anchor USING brin (anchored_at);

COMMENT ON TABLE coord.audit_anchor IS
  'Digests of what was projected, now and then: between two of a partition, the stream must lead from one to the other.';
COMMENT ON COLUMN coord.audit_anchor.anchored_at IS 'Database''s clock: when it was written; old ones are removed.';
COMMENT ON COLUMN coord.audit_anchor.stored_at IS 'Broker''s time of the message at seq; null when there was none to read.';
COMMENT ON COLUMN coord.audit_anchor.seq IS 'Everything of the partition up to this stream sequence is in the digest.';
COMMENT ON COLUMN coord.audit_anchor.messages IS 'How many messages have gone into digest since the epoch began.';
COMMENT ON COLUMN coord.audit_anchor.digest IS 'The chain''s digest there: see coord/core/chain.py.';
COMMENT ON COLUMN coord.audit_anchor.epoch IS 'Incarnation of the stream; each epoch has a chain of its own.';
COMMENT ON COLUMN coord.audit_anchor.partition IS '0 to 15.';
COMMENT ON COLUMN coord.audit_anchor.stream IS 'EVENTS or TELEMETRY.';

-- --- the archive: what is in Parquet (docs/adr/0093) ------------------------------------------

-- One row while an archive is configured, written by `coord db migrate` from the settings: so the database itself
-- knows that nothing may be dropped before it is verified there, whatever the settings of whoever asks.
CREATE TABLE coord.archive_store (
  since timestamptz NOT NULL DEFAULT now(),
  sole  boolean     NOT NULL DEFAULT true PRIMARY KEY CHECK (sole),
  url   text        NOT NULL
);

COMMENT ON TABLE coord.archive_store IS 'Where the archive is; no row: there is none, and retention drops rows unarchived.';
COMMENT ON COLUMN coord.archive_store.since IS 'Database''s clock: since when it is there.';
COMMENT ON COLUMN coord.archive_store.sole IS 'There is one archive at most.';
COMMENT ON COLUMN coord.archive_store.url IS 'A folder or an address of an object store, without secrets.';

CREATE TABLE coord.archive (
  range_start    timestamptz NOT NULL,
  range_end      timestamptz NOT NULL,
  began_at       timestamptz NOT NULL DEFAULT now(),
  changed_at     timestamptz NOT NULL DEFAULT now(),
  verified_at    timestamptz,
  restored_until timestamptz,
  piece          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  row_count      bigint      CHECK (row_count >= 0),
  seq_sum        numeric,
  byte_count     bigint      CHECK (byte_count >= 0),
  attempt        integer     NOT NULL DEFAULT 1 CHECK (attempt >= 1),
  relation       text COLLATE "C"        NOT NULL CHECK (relation IN ('event', 'metric_sample')),
  state          text COLLATE "C"        NOT NULL DEFAULT 'writing'
    CHECK (state IN ('writing', 'written', 'published', 'verified', 'dropped', 'restored', 'purging', 'purged')),
  CHECK (range_start < range_end)
);
CREATE INDEX archive_range_idx ON coord.archive (relation, range_start);

COMMENT ON TABLE coord.archive IS
  'Each chunk that was written as Parquet, and how far that has come. Its rows are cold, only in the files, while its state is dropped. Analysts read v_archive.';
COMMENT ON COLUMN coord.archive.range_start IS 'stored_at of its rows: from then on,';
COMMENT ON COLUMN coord.archive.range_end IS 'until before then.';
COMMENT ON COLUMN coord.archive.began_at IS 'Database''s clock: when it was begun.';
COMMENT ON COLUMN coord.archive.changed_at IS 'Database''s clock: its last change of state.';
COMMENT ON COLUMN coord.archive.verified_at IS 'Database''s clock: when its files were last read back and found whole.';
COMMENT ON COLUMN coord.archive.restored_until IS 'Until when rows that were restored stay at least; null: they were not.';
COMMENT ON COLUMN coord.archive.piece IS 'Its number, a part of its files'' names.';
COMMENT ON COLUMN coord.archive.row_count IS 'Rows in its files; null until they are written.';
COMMENT ON COLUMN coord.archive.seq_sum IS 'Sum of their seq: compared with the chunk before that is dropped.';
COMMENT ON COLUMN coord.archive.byte_count IS 'Bytes of its files.';
COMMENT ON COLUMN coord.archive.attempt IS 'How often it was begun, a part of its files'' names.';
COMMENT ON COLUMN coord.archive.relation IS 'The table: event or metric_sample.';
COMMENT ON COLUMN coord.archive.state IS
  'writing, written (aside), published (under its name), verified (read back), dropped (from the table), restored (in the table again), purging, purged.';

CREATE TABLE coord.archive_file (
  piece         bigint   NOT NULL,
  row_count     bigint   NOT NULL CHECK (row_count > 0),
  byte_count    bigint   NOT NULL CHECK (byte_count > 0),
  seq_first     bigint   NOT NULL,
  seq_last      bigint   NOT NULL CHECK (seq_last >= seq_first),
  number        integer  NOT NULL,
  epoch         integer  NOT NULL,
  day           date     NOT NULL,
  tenant        text COLLATE "C" NOT NULL,
  kind          text COLLATE "C",
  path          text COLLATE "C" NOT NULL,
  sha256        text COLLATE "C" NOT NULL,
  content       text COLLATE "C" NOT NULL,
  PRIMARY KEY (piece, number)
);
CREATE INDEX archive_file_tenant_idx ON coord.archive_file (tenant, day);

COMMENT ON TABLE coord.archive_file IS 'The files of the archive: the manifest, as it also lies beside them.';
COMMENT ON COLUMN coord.archive_file.piece IS 'The chunk it is a part of.';
COMMENT ON COLUMN coord.archive_file.row_count IS 'Rows in it.';
COMMENT ON COLUMN coord.archive_file.byte_count IS 'Its size.';
COMMENT ON COLUMN coord.archive_file.seq_first IS 'seq of its first row; its rows are in the order of (seq, idx).';
COMMENT ON COLUMN coord.archive_file.seq_last IS 'seq of its last row.';
COMMENT ON COLUMN coord.archive_file.number IS 'Its number in the piece, from 0.';
COMMENT ON COLUMN coord.archive_file.epoch IS 'Incarnation of the stream: all its rows are of one.';
COMMENT ON COLUMN coord.archive_file.day IS 'stored_at of its rows, UTC.';
COMMENT ON COLUMN coord.archive_file.tenant IS 'Whose fleet: all its rows are of one.';
COMMENT ON COLUMN coord.archive_file.kind IS 'All its facts are about one kind; null: samples have none.';
COMMENT ON COLUMN coord.archive_file.path IS 'Below the archive''s root.';
COMMENT ON COLUMN coord.archive_file.sha256 IS 'Of its bytes.';
COMMENT ON COLUMN coord.archive_file.content IS 'Of the values in it, column by column: what was read from the table.';

-- --- readers -------------------------------------------------------------------------------

CREATE TABLE coord.reader (
  made_at timestamptz NOT NULL DEFAULT now(),
  login   name        NOT NULL PRIMARY KEY,
  tenant  text COLLATE "C" NOT NULL,
  statement_s double precision
);
COMMENT ON TABLE coord.reader IS 'Logins that read one fleet only. Written by `coord db role`; who is not here reads nothing of schema coord_tenant.';
COMMENT ON COLUMN coord.reader.made_at IS 'Database''s clock: when it was allowed to.';
COMMENT ON COLUMN coord.reader.login IS 'The role that it logs in as.';
COMMENT ON COLUMN coord.reader.tenant IS 'Whose fleet it reads.';
COMMENT ON COLUMN coord.reader.statement_s IS 'Seconds a statement of it may take, whatever it has set for itself; null: nobody looks.';
