-- Who handed what to whom: one row for each who was asked, by the offerer or by a further step of the decider.

CREATE OR REPLACE VIEW coord.v_handoff AS
SELECT
  e.stored_at,
  e.tenant,
  e.key,
  e.id,
  CASE WHEN e.agent = '_handoff' THEN coalesce(h.offerer, e.agent) ELSE e.agent END AS from_agent,
  coalesce(e.data ->> 'to', e.data ->> 'agent') AS to_agent,
  e.data ->> 'reason' AS reason,
  e.correlation_id,
  e.data,
  e.epoch,
  e.seq
FROM coord.event AS e
LEFT JOIN coord.handoff AS h ON e.agent = '_handoff' AND h.tenant = e.tenant AND h.key = e.key AND h.id = e.id
WHERE e.kind = 'handoff' AND e.event IN ('offered', 'escalated')
  AND e.detail NOT LIKE 'again.%'  -- stated again by its decider
  AND NOT (e.detail = '' AND e.data ? 'capability');  -- nobody is asked yet: the steps follow

COMMENT ON VIEW coord.v_handoff IS 'Handoffs between agents: one row for each who was asked.';
COMMENT ON COLUMN coord.v_handoff.stored_at IS 'Broker''s clock: when the offer was stored.';
COMMENT ON COLUMN coord.v_handoff.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_handoff.key IS 'The piece of work that was handed off.';
COMMENT ON COLUMN coord.v_handoff.id IS 'The handoff.';
COMMENT ON COLUMN coord.v_handoff.from_agent IS 'Who offered.';
COMMENT ON COLUMN coord.v_handoff.to_agent IS 'To whom; null when the offer names nobody.';
COMMENT ON COLUMN coord.v_handoff.reason IS 'Why, in the words of the one who offered; of a further step, why it came to it.';
COMMENT ON COLUMN coord.v_handoff.correlation_id IS 'The whole conversation this belongs to.';
COMMENT ON COLUMN coord.v_handoff.data IS 'The whole offer, as JSON.';
COMMENT ON COLUMN coord.v_handoff.epoch IS 'Incarnation of the log; orders rows together with seq.';
COMMENT ON COLUMN coord.v_handoff.seq IS 'Sequence of its message in the log.';
