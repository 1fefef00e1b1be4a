-- Every handoff as it is now: who is asked, or has it.

CREATE OR REPLACE VIEW coord.v_handoff_state AS
SELECT
  h.tenant, h.key, h.id, h.status, h.offerer, h.addressee, h.instance, h.capability, h.n AS asked, h.escalations,
  h.offered_at, h.since, h.answer_by, h.ended_at,
  greatest(extract(epoch FROM coalesce(h.ended_at, now()) - h.offered_at), 0)::double precision AS seconds,
  h.reason, h.changed_at, h.epoch, h.seq
FROM coord.handoff AS h;

COMMENT ON VIEW coord.v_handoff_state IS 'Every handoff as its facts leave it: one row a handoff. Offers one by one are in v_handoff.';
COMMENT ON COLUMN coord.v_handoff_state.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_handoff_state.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_handoff_state.id IS 'The handoff.';
COMMENT ON COLUMN coord.v_handoff_state.status IS 'seeking, offered, accepted, withdrawn, expired, or lost with its log.';
COMMENT ON COLUMN coord.v_handoff_state.offerer IS 'Who offered it.';
COMMENT ON COLUMN coord.v_handoff_state.addressee IS 'Who is asked, or has accepted.';
COMMENT ON COLUMN coord.v_handoff_state.instance IS 'Which instance of that agent.';
COMMENT ON COLUMN coord.v_handoff_state.capability IS 'What whoever takes it must be able to do; null: it was offered to an agent.';
COMMENT ON COLUMN coord.v_handoff_state.asked IS 'How many were asked.';
COMMENT ON COLUMN coord.v_handoff_state.escalations IS 'How often it went to a coordinator.';
COMMENT ON COLUMN coord.v_handoff_state.offered_at IS 'Broker''s clock: when it was offered.';
COMMENT ON COLUMN coord.v_handoff_state.since IS 'When its status, or its step, began.';
COMMENT ON COLUMN coord.v_handoff_state.answer_by IS 'When the step is given up.';
COMMENT ON COLUMN coord.v_handoff_state.ended_at IS 'When it was settled; null: it is open.';
COMMENT ON COLUMN coord.v_handoff_state.seconds IS 'From the offer to its end, or until now.';
COMMENT ON COLUMN coord.v_handoff_state.reason IS 'Of the last refusal, withdrawal or expiry.';
COMMENT ON COLUMN coord.v_handoff_state.changed_at IS 'Broker''s clock: its newest fact.';
COMMENT ON COLUMN coord.v_handoff_state.epoch IS 'Incarnation of the log; orders rows together with seq.';
COMMENT ON COLUMN coord.v_handoff_state.seq IS 'Sequence of its newest fact in the log.';
