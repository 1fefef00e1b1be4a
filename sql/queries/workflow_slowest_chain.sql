-- The slowest chain of dependencies of a workflow: which steps its whole duration went through.
-- :tenant  only this fleet; empty: all
-- :id      which workflow; empty: the one that took longest of those that ended
-- :since   of those that started from then on = yesterday
-- Read from the end: the step that ended last, before it the one of its `needs` that ended last, and so on to a step that
-- needed nothing. Only making these faster makes the workflow faster. waited is from when it could begin to its first claim
-- (a step without a task has none); took is from then to its end.
WITH RECURSIVE flow AS (
  SELECT w.tenant, w.key, w.id, w.started_at, w.seconds
  FROM coord.v_workflow AS w
  WHERE (:'tenant' = '' OR w.tenant = :'tenant')
    AND CASE WHEN :'id' = '' THEN w.ended_at IS NOT NULL AND w.started_at >= :'since'::timestamptz ELSE w.id = :'id' AND w.key = :'id' END
  ORDER BY w.seconds DESC, w.tenant, w.id
  LIMIT 1
),

fact AS (
  SELECT e.kind, e.id, e.event, e.detail, e.stored_at, e.data
  FROM flow AS f
  INNER JOIN coord.v_event AS e ON e.tenant = f.tenant AND e.key = f.key AND e.stored_at >= f.started_at
),

step AS (
  SELECT s.value ->> 'name' AS name, s.value -> 'needs' AS needs, coalesce(s.value ->> 'task', s.value ->> 'workflow') AS capability
  FROM (
    SELECT f.data FROM fact AS f WHERE f.kind = 'workflow' AND f.event = 'started' ORDER BY f.stored_at LIMIT 1
  ) AS started
  CROSS JOIN LATERAL jsonb_array_elements(
    CASE jsonb_typeof(started.data -> 'definition' -> 'steps') WHEN 'array' THEN started.data -> 'definition' -> 'steps' ELSE '[]' END
  ) AS s (value)
),

-- When each step ended: its task (of a fan-out, the last one), its timer, its signal, its decision.
done AS (
  SELECT
    s.name, s.needs, s.capability, max(f.stored_at) AS ended_at, min(f.stored_at) FILTER (WHERE f.event = 'claimed') AS claimed_at,
    count(*) FILTER (WHERE f.event = 'claimed') AS attempts
  FROM step AS s
  INNER JOIN fact AS f
    ON (f.kind IN ('task', 'timer', 'signal') AND (f.id = s.name OR (f.id LIKE s.name || '-%' AND substr(f.id, length(s.name) + 2) ~ '^\d+$')))
    OR (f.kind = 'workflow' AND f.event IN ('decided', 'joined') AND f.detail = s.name)
    OR (f.kind = 'signal' AND f.detail = s.name)
  WHERE f.event IN ('claimed', 'completed', 'failed', 'rejected', 'cancelled', 'expired', 'fired', 'resumed', 'decided', 'joined')
  GROUP BY s.name, s.needs, s.capability
),

chain AS (
  SELECT 1 AS back, l.name, l.needs, l.capability, l.ended_at, l.claimed_at, l.attempts
  FROM (SELECT d.* FROM done AS d ORDER BY d.ended_at DESC, d.name LIMIT 1) AS l
  UNION ALL
  SELECT c.back + 1, b.name, b.needs, b.capability, b.ended_at, b.claimed_at, b.attempts
  FROM chain AS c
  CROSS JOIN LATERAL (
    SELECT d.* FROM done AS d WHERE c.needs ? d.name ORDER BY d.ended_at DESC, d.name LIMIT 1
  ) AS b
  WHERE c.back < 500
)

SELECT
  f.tenant, f.id, row_number() OVER w AS position, c.name AS step, c.capability, c.attempts,
  round(extract(epoch FROM greatest(c.claimed_at - coalesce(lag(c.ended_at) OVER w, f.started_at), INTERVAL '0')), 3)::double precision
    AS waited_seconds,
  round(extract(epoch FROM c.ended_at - greatest(c.claimed_at, coalesce(lag(c.ended_at) OVER w, f.started_at))), 3)::double precision
    AS took_seconds,
  round((extract(epoch FROM c.ended_at - coalesce(lag(c.ended_at) OVER w, f.started_at)) / nullif(f.seconds, 0))::numeric, 4)::double precision AS share,
  c.ended_at
FROM chain AS c
CROSS JOIN flow AS f
WINDOW w AS (ORDER BY c.back DESC)
ORDER BY position
