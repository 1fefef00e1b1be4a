-- Every lock: who holds it or waits for it, in the order of their turns.

CREATE OR REPLACE VIEW coord.v_lock AS
SELECT
  l.tenant, l.key, l.id, l.permits, r.value ->> 'agent' AS agent, r.value ->> 'instance' AS instance,
  r.value ? 'granted_at' AS holds, to_timestamp((r.value ->> 'since')::double precision) AS since,
  to_timestamp((r.value ->> 'granted_at')::double precision) AS granted_at, (r.value ->> 'epoch')::bigint AS fence
FROM coord.lock AS l
CROSS JOIN LATERAL jsonb_each(l.requests) AS r (token, value);

COMMENT ON VIEW coord.v_lock IS 'Who holds which lock, and who waits for it: one row a request.';
COMMENT ON COLUMN coord.v_lock.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_lock.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_lock.id IS 'The lock.';
COMMENT ON COLUMN coord.v_lock.permits IS 'How many may hold it at a time.';
COMMENT ON COLUMN coord.v_lock.agent IS 'Who holds it or waits.';
COMMENT ON COLUMN coord.v_lock.instance IS 'Which instance of that agent.';
COMMENT ON COLUMN coord.v_lock.holds IS 'Whether it holds it; false: it waits.';
COMMENT ON COLUMN coord.v_lock.since IS 'Broker''s clock: when it asked.';
COMMENT ON COLUMN coord.v_lock.granted_at IS 'When it was granted.';
COMMENT ON COLUMN coord.v_lock.fence IS 'The fencing number; turns come in its order.';
