-- Coordination (docs/adr/0059): tasks, workflows, handoffs, signals, locks, flags and the agents' registry, each
-- entity as the fold of its facts leaves it.
--
-- Facts that were projected before do not come back: an entity is in its table from its first fact
-- after this migration on, or from the moment that its decider states it again.

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
COMMENT ON COLUMN coord.task.status IS 'queued, claimed, waiting, completed, rejected, failed, cancelled or expired.';
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
COMMENT ON COLUMN coord.workflow.status IS 'running, compensating, completed, failed or cancelled.';
COMMENT ON COLUMN coord.workflow.name IS 'Of its definition.';
COMMENT ON COLUMN coord.workflow.version IS 'Of its definition.';
COMMENT ON COLUMN coord.workflow.submitter IS 'Who started it.';
COMMENT ON COLUMN coord.workflow.parent IS 'The workflow whose step it is; null: none.';
COMMENT ON COLUMN coord.workflow.step IS 'Where it failed.';
COMMENT ON COLUMN coord.workflow.error IS 'Kind of its failure or cancellation.';
COMMENT ON COLUMN coord.workflow.message IS 'The same in words.';
COMMENT ON COLUMN coord.workflow.correlation_id IS 'The whole conversation this belongs to.';
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
COMMENT ON COLUMN coord.handoff.status IS 'seeking, offered, accepted, withdrawn or expired.';
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
