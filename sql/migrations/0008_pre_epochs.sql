-- Epochs that an operator opened, and whether the log was another one (docs/adr/0095): a rebuild must know where what
-- was open was lost.  Epochs of before are not known: what they lost stays as the tables have it.

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
