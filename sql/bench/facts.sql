-- States the facts of the batch's tasks, in the order of their times, up to a moment.
-- :seq    sequence of the first one
-- :epoch  incarnation of the log = 1
-- :first  number of the batch's first task
-- :until  what would be stated later is not there yet
--
-- An agent's ids count up behind the random bits of its process, in the order of its facts.  A gateway submits in one process, and starts
-- and cancels in another one.
INSERT INTO coord.event (
  stored_at, epoch, seq, idx, partition, tenant, agent, key, kind, id, event, detail, event_id, type, schema, occurred_at,
  correlation_id, causation_id, traceparent, data
)
SELECT
  f.at, :'epoch'::integer, :'seq'::bigint + row_number() OVER (ORDER BY f.at, m.n, f.f), 0, (hashtext(m.key) & 15)::smallint, m.tenant, f.agent,
  CASE f.kind WHEN 'agent' THEN f.agent ELSE m.key END, f.kind, f.id, f.event, f.detail,
  CASE
    WHEN f.f = 1 THEN m.event_id
    WHEN f.f = 2 THEN m.key || ':1:task/' || m.id || '/placed:1.0'
    WHEN f.f = 11 THEN m.key || ':research@3:completed:0.0'
    WHEN f.decided THEN m.key || ':research@3:' || m.id || '/cancelled:2.0'
    ELSE
      substr(f.process, 1, 8) || '-' || substr(f.process, 9, 4) || '-8' || substr(f.process, 13, 3) || '-9' || substr(f.process, 16, 3) || '-'
      || lpad(to_hex(
        12 * :'first'::bigint + count(*) FILTER (WHERE f.f <> 1 AND NOT f.decided) OVER (PARTITION BY m.tenant, f.agent ORDER BY f.at, m.n, f.f)
      ), 12, '0')
  END,
  'coord.' || f.kind || '.' || f.event, 1, f.at - interval '1 ms', CASE WHEN f.caused AND NOT f.decided THEN m.event_id END,
  CASE WHEN f.caused AND NOT f.decided THEN m.event_id END, NULL, f.data::jsonb
FROM made AS m
CROSS JOIN LATERAL (
  SELECT
    v.*, md5(m.tenant || v.agent) AS process
  FROM (
    VALUES
    (
      0, m.is_step AND m.place = 0, m.submitted_at - interval '2 ms', 'gateway-0-1', 'workflow', m.key, 'started', '', false, false,
      '{"definition": {"name": "research", "version": "3", "steps": [{"name": "plan", "task": "plan"},'
      || ' {"name": "search", "task": "search", "needs": ["plan"]}, {"name": "read", "task": "browse", "needs": ["plan"]},'
      || ' {"name": "write", "task": "code", "needs": ["search", "read"]}, {"name": "review", "task": "review", "needs": ["write"]}]},'
      || ' "input": {"question": "' || m.random || '"}, "instance": "' || to_hex(hashint8extended(-2, 0)) || '"}'
    ),
    (
      1, true, m.submitted_at, m.submitter, 'task', m.id, 'submitted', m.capability || '.' || m.priority, false, m.is_step,
      '{"input": {"row": ' || m.n || ', "path": "src/' || m.capability || '/' || substr(m.random, 1, 6) || '.py", "tokens": ' || m.n % 4000
      || '}, "labels": {"team": "team-' || m.n % 7 || '", "model": "m' || m.n % 3 || '"}'
      || coalesce(', "instance": "' || m.submitter_instance || '"', '') || '}'
    ),
    (
      2, m.is_placed, m.submitted_at + interval '1 ms', '_scheduler', 'task', m.id, 'placed', '1', true, true,
      '{"agent": "' || m.worker || '", "reason": "resources: 1, the best of 2", "instance": "' || m.instance
      || '", "strategy": "resources", "candidates": [{"agent": "' || m.worker
      || '", "parts": {"fit": 1.0, "load": 0.' || m.n % 89 || '7, "history": 1.0, "affinity": 1.0}, "score": 0.' || m.n % 97 || '1'
      || ', "instance": "' || m.instance || '"}, {"agent": "' || m.next_worker || '", "score": 0.' || m.n % 83 || '1'
      || '}], "considered": 2}'
    ),
    (
      3, true, m.claimed_at, m.worker, 'task', m.id, 'claimed', '1', true, false,
      '{"instance": "' || m.instance || '"}'
    ),
    (
      4, m.n % 10 = 0, m.claimed_at + m.run_s * interval '0.5 s', m.worker, 'task', m.id, 'progress', '', true, false,
      '{"done": 0.5, "claim": 1, "note": "half of it"}'
    ),
    (
      5, m.fails > 0, m.again_at - interval '1 s', m.worker, 'task', m.id, 'failed', '', true, false,
      '{"claim": 1, "error": "' || (ARRAY['Timeout', 'RateLimited', 'ToolError', 'BadAnswer'])[m.n % 4 + 1]
      || '", "run_s": ' || round(m.run_s::numeric, 6)::double precision || ', "message": "gave up after ' || m.n % 90 || ' s"}'
    ),
    (
      6, m.fails > 0, m.again_at, m.next_worker, 'task', m.id, 'claimed', '2', true, false,
      '{"instance": "' || m.next_instance || '"}'
    ),
    (
      7, m.is_handed, m.claimed_at + m.run_s * interval '0.6 s', m.worker, 'handoff', 'h' || m.place, 'offered', '', true, false,
      '{"work": {"message": ' || m.n || '}, "agent": "' || m.next_worker || '", "reason": "next to speak", "instance": "' || m.instance || '"}'
    ),
    (
      8, m.is_handed, m.claimed_at + (m.run_s * 0.6 + 0.1) * interval '1 s', m.next_worker, 'handoff', 'h' || m.place, 'accepted', '1',
      false, false, '{"instance": "' || m.next_instance || '"}'
    ),
    (
      9, m.n % 4 = 0, m.claimed_at + interval '3 ms', m.worker, 'agent', m.worker, 'status', '', false, false,
      '{"load": 0.' || m.n % 100 || '1, "tasks": ' || m.n % 4 || ', "instance": "' || m.instance || '"}'
    ),
    (
      10, true, m.ended_at, CASE WHEN m.outcome = 'cancelled' THEN m.submitter WHEN m.fails = 0 THEN m.worker ELSE m.next_worker END,
      'task', m.id, m.outcome, '', true, m.is_step AND m.outcome = 'cancelled',
      CASE m.outcome
        WHEN 'completed'
          THEN '{"claim": ' || m.fails + 1 || ', "run_s": ' || round(m.run_s::numeric, 6)::double precision || ', "output": {"answer": "' || substr(m.random, 9, 12) || '"}}'
        WHEN 'failed' THEN '{"claim": 2, "final": true, "error": "Timeout", "run_s": ' || round(m.run_s::numeric, 6)::double precision || '}'
        ELSE '{"reason": "not wanted any more"}'
      END
    ),
    (
      11, m.is_step AND m.place = 4, m.over_at, '_workflow', 'workflow', m.key, 'completed', '', true, true,
      '{"output": {"answer": "' || m.random || '"}}'
    )
  ) AS v (f, stated, at, agent, kind, id, event, detail, caused, decided, data)
) AS f
WHERE f.stated AND f.at < :'until'::timestamptz
ORDER BY f.at, m.n, f.f
