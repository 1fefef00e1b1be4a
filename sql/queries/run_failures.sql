-- Recorded conversations: who made the first mistake, as whoever annotated them found, and where in the chain.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = yesterday
-- :until   stored before = infinity
-- step is the message with the mistake, from 0; speaker is who said it, which should be the agent.
-- handoffs_before are those on the way there; through is the share of the conversation that was over by then.
WITH run AS (
  SELECT
    e.tenant, e.key, e.stored_at, e.data ->> 'mistake_agent' AS agent, (e.data ->> 'mistake_step')::integer AS step,
    (e.data ->> 'messages')::integer AS messages, e.data ->> 'mistake_reason' AS reason
  FROM coord.v_event AS e
  WHERE e.kind = 'run' AND e.event = 'recorded' AND e.data ? 'mistake_agent'
    AND (:'tenant' = '' OR e.tenant = :'tenant')
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
),

way AS (
  SELECT
    r.tenant, r.key, max(e.data ->> 'speaker') FILTER (WHERE e.kind = 'message' AND e.id = r.step::text) AS speaker,
    count(*) FILTER (WHERE e.kind = 'handoff' AND (e.data ->> 'message')::integer < r.step) AS handoffs_before
  FROM run AS r
  INNER JOIN coord.v_event AS e ON e.tenant = r.tenant AND e.key = r.key AND e.stored_at >= r.stored_at
  WHERE (e.kind, e.event) IN (('message', 'sent'), ('handoff', 'offered'))
    AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
  GROUP BY r.tenant, r.key
)

SELECT
  r.tenant, r.key, r.agent, r.step, w.speaker, r.messages, coalesce(w.handoffs_before, 0) AS handoffs_before,
  round((r.step + 1)::numeric / nullif(r.messages, 0), 3)::double precision AS through, r.reason
FROM run AS r
LEFT JOIN way AS w ON w.tenant = r.tenant AND w.key = r.key
ORDER BY r.tenant, r.stored_at, r.key
