-- Every feature flag: whether it is set, for whom, and who changed it last.

CREATE OR REPLACE VIEW coord.v_flag AS
SELECT
  f.tenant, f.key, f.id, f.percentage IS NOT NULL AS is_set, f.enabled, f.percentage, f.rules, f.set_at, f.set_by, f.changes, f.changed_at,
  f.epoch, f.seq
FROM coord.flag AS f;

COMMENT ON VIEW coord.v_flag IS 'Every feature flag as its facts leave it: one row a flag, those that were removed too.';
COMMENT ON COLUMN coord.v_flag.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_flag.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_flag.id IS 'The flag''s name.';
COMMENT ON COLUMN coord.v_flag.is_set IS 'false: it was removed, and whoever asks takes a default.';
COMMENT ON COLUMN coord.v_flag.enabled IS 'false: off for everybody; null: it was removed.';
COMMENT ON COLUMN coord.v_flag.percentage IS 'Of subjects for which it is on where no rule fits; null: it was removed.';
COMMENT ON COLUMN coord.v_flag.rules IS 'The first that fits decides; null: it was removed.';
COMMENT ON COLUMN coord.v_flag.set_at IS 'Broker''s clock: the last change.';
COMMENT ON COLUMN coord.v_flag.set_by IS 'Who changed it last.';
COMMENT ON COLUMN coord.v_flag.changes IS 'How often it was changed.';
COMMENT ON COLUMN coord.v_flag.changed_at IS 'Broker''s clock: its newest fact.';
COMMENT ON COLUMN coord.v_flag.epoch IS 'Incarnation of the log; orders rows together with seq.';
COMMENT ON COLUMN coord.v_flag.seq IS 'Sequence of its newest fact in the log.';
