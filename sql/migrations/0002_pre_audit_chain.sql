-- The chain of what was projected (docs/adr/0032): a digest beside each checkpoint, and its anchors.
--
-- A partition that was projected before begins its chain where it stands.  The projector of the
-- release before knows nothing of it: what it projects is in no segment, because it leaves the
-- digest and moves the checkpoint; so stop it before the new one starts, or the first audit
-- names those segments.

ALTER TABLE coord.checkpoint
  ADD COLUMN digest bigint NOT NULL DEFAULT 0 CHECK (digest BETWEEN 0 AND 4294967295),
  ADD COLUMN messages bigint NOT NULL DEFAULT 0 CHECK (messages >= 0);
COMMENT ON COLUMN coord.checkpoint.digest IS 'Running digest of every message projected in this epoch: see coord/core/chain.py.';
COMMENT ON COLUMN coord.checkpoint.messages IS 'How many messages have gone into digest.';

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

INSERT INTO coord.audit_anchor (stream, partition, epoch, seq, stored_at, messages, digest)
SELECT stream, partition, epoch, seq, stored_at, messages, digest FROM coord.checkpoint;
