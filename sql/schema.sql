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
CREATE INDEX event_agent_idx ON coord.event (tenant, agent, stored_at DESC);
CREATE INDEX event_key_idx ON coord.event (tenant, key, stored_at DESC);

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
COMMENT ON COLUMN coord.agent.state IS 'alive, suspect, draining, left or gone.';
COMMENT ON COLUMN coord.agent.status IS 'What it last said about itself.';
COMMENT ON COLUMN coord.agent.status_rev IS
  'Run and number of the statement that status is, and the changes that wait for a missing one; null: a plain status.';

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
