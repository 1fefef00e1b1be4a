-- Who waits for what, since when.

CREATE OR REPLACE VIEW coord.v_waiting AS
SELECT
  t.tenant, 'task' AS what, t.key, t.id, t.submitter AS who, NULL::text AS instance, t.status AS state, t.capability AS waits_for,
  t.claimant AS holder, t.submitted_at AS since,
  greatest(extract(epoch FROM now() - t.submitted_at), 0)::double precision AS seconds, t.deadline AS until, t.error AS detail
FROM coord.task AS t
WHERE t.ended_at IS NULL
UNION ALL
SELECT
  s.tenant, 'signal', s.key, s.id, w.value ->> 'agent', w.value ->> 'instance',
  CASE WHEN w.value ? 'deadlock' THEN 'deadlocked' ELSE 'awaiting' END, s.id, NULL,
  to_timestamp((w.value ->> 'since')::double precision),
  greatest(extract(epoch FROM now()) - (w.value ->> 'since')::double precision, 0)::double precision,
  to_timestamp(least((w.value ->> 'deadline')::double precision, 253402300799)), w.value ->> 'deadlock'
FROM coord.signal AS s
CROSS JOIN LATERAL jsonb_each(s.waits) AS w (token, value)
WHERE s.waiting > 0
UNION ALL
SELECT
  l.tenant, 'lock', l.key, l.id, r.value ->> 'agent', r.value ->> 'instance', 'waiting', l.id,
  (
    SELECT string_agg(h.value ->> 'agent', ', ' ORDER BY (h.value ->> 'epoch')::bigint)
    FROM jsonb_each(l.requests) AS h (token, value)
    WHERE h.value ? 'granted_at'
  ),
  to_timestamp((r.value ->> 'since')::double precision),
  greatest(extract(epoch FROM now()) - (r.value ->> 'since')::double precision, 0)::double precision, NULL, NULL
FROM coord.lock AS l
CROSS JOIN LATERAL jsonb_each(l.requests) AS r (token, value)
WHERE l.waiting > 0 AND NOT r.value ? 'granted_at'
UNION ALL
SELECT
  h.tenant, 'handoff', h.key, h.id, h.offerer, NULL, h.status, coalesce(h.capability, h.addressee), h.addressee, h.offered_at,
  greatest(extract(epoch FROM now() - h.offered_at), 0)::double precision, h.answer_by, h.reason
FROM coord.handoff AS h
WHERE h.ended_at IS NULL
UNION ALL
SELECT
  w.tenant, 'workflow', w.key, w.id, w.submitter, NULL, w.status,
  coalesce(
    (
      SELECT string_agg(p.name, ', ' ORDER BY p.since, p.name)
      FROM (
        SELECT 'task ' || t.id AS name, t.submitted_at AS since
        FROM coord.task AS t
        WHERE t.tenant = w.tenant AND t.key = w.key AND t.ended_at IS NULL
        UNION ALL
        SELECT 'signal ' || s.id, s.changed_at
        FROM coord.signal AS s
        WHERE s.tenant = w.tenant AND s.key = w.key AND s.waiting > 0
        ORDER BY since, name
        LIMIT 4
      ) AS p
    ),
    w.name
  ),
  NULL, w.started_at,
  greatest(extract(epoch FROM now() - w.started_at), 0)::double precision, NULL, w.step
FROM coord.workflow AS w
WHERE w.ended_at IS NULL;

COMMENT ON VIEW coord.v_waiting IS 'Who waits for what, and since when: open tasks, awaited signals, wanted locks, open handoffs and workflows.';
COMMENT ON COLUMN coord.v_waiting.tenant IS 'Whose fleet.';
COMMENT ON COLUMN coord.v_waiting.what IS 'task, signal, lock, handoff or workflow.';
COMMENT ON COLUMN coord.v_waiting.key IS 'Its ordering key.';
COMMENT ON COLUMN coord.v_waiting.id IS 'The entity.';
COMMENT ON COLUMN coord.v_waiting.who IS 'Who waits: submitter, offerer, or whoever asked.';
COMMENT ON COLUMN coord.v_waiting.instance IS 'Which instance of that agent; null: not known.';
COMMENT ON COLUMN coord.v_waiting.state IS 'Where it stands: queued, claimed, waiting, awaiting, deadlocked, seeking, offered, running, …';
COMMENT ON COLUMN coord.v_waiting.waits_for IS 'A capability, a signal, a lock or an agent; of a workflow its first open tasks (a step''s task has the step''s name) and signals, or the workflow''s name while time or another workflow is waited for.';
COMMENT ON COLUMN coord.v_waiting.holder IS 'Who has it meanwhile; null: nobody.';
COMMENT ON COLUMN coord.v_waiting.since IS 'Broker''s clock: since when.';
COMMENT ON COLUMN coord.v_waiting.seconds IS 'The same until now (database''s clock).';
COMMENT ON COLUMN coord.v_waiting.until IS 'When it ends by itself; null: never.';
COMMENT ON COLUMN coord.v_waiting.detail IS 'The last failure or refusal; of a deadlock the cycle in words.';
