-- How long tasks of each capability waited for a worker and then ran.
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- From the facts themselves, so that it also knows tasks whose rows are gone; `task_waits` is faster.
WITH task AS (
  SELECT
    e.tenant,
    e.key,
    e.id,
    max(split_part(e.detail, '.', 1)) FILTER (WHERE e.event = 'submitted') AS capability,
    min(e.stored_at) FILTER (WHERE e.event = 'submitted') AS submitted_at,
    min(e.stored_at) FILTER (WHERE e.event = 'claimed') AS claimed_at,
    min(e.stored_at) FILTER (WHERE e.event IN ('completed', 'failed')) AS ended_at,
    count(*) FILTER (WHERE e.event = 'failed') AS failed
  FROM coord.v_event AS e
  WHERE e.kind = 'task'
    AND (:'tenant' = '' OR e.tenant = :'tenant')
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
  GROUP BY e.tenant, e.key, e.id
)
SELECT
  t.capability,
  count(*) AS tasks,
  count(t.ended_at) AS ended,
  sum(t.failed)::bigint AS failed,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM t.claimed_at - t.submitted_at)))::numeric, 4)::double precision
    AS wait_p50_seconds,
  round((percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM t.claimed_at - t.submitted_at)))::numeric, 4)::double precision
    AS wait_p99_seconds,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM t.ended_at - t.claimed_at)))::numeric, 4)::double precision
    AS run_p50_seconds,
  round((percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM t.ended_at - t.claimed_at)))::numeric, 4)::double precision
    AS run_p99_seconds
FROM task AS t
WHERE t.capability IS NOT NULL
GROUP BY t.capability
ORDER BY tasks DESC, t.capability
