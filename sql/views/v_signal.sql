-- Every signal: whether it is raised, and how many wait.

CREATE OR REPLACE VIEW coord.v_signal AS
SELECT
  s.tenant, s.key, s.id, s.raised_at IS NOT NULL AS raised, s.raised_at, s.raised_by, s.waiting, s.changed_at, s.epoch, s.seq
FROM coord.signal AS s;

COMMENT ON VIEW coord.v_signal IS 'Every signal as its facts leave it: one row a signal.';
COMMENT ON COLUMN coord.v_signal.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_signal.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_signal.id IS 'The signal.';
COMMENT ON COLUMN coord.v_signal.raised IS 'Whether it is raised.';
COMMENT ON COLUMN coord.v_signal.raised_at IS 'Broker''s clock: when it was.';
COMMENT ON COLUMN coord.v_signal.raised_by IS 'Who raised it.';
COMMENT ON COLUMN coord.v_signal.waiting IS 'How many wait for it.';
COMMENT ON COLUMN coord.v_signal.changed_at IS 'Broker''s clock: its newest fact.';
COMMENT ON COLUMN coord.v_signal.epoch IS 'Incarnation of the log; orders rows together with seq.';
COMMENT ON COLUMN coord.v_signal.seq IS 'Sequence of its newest fact in the log.';
