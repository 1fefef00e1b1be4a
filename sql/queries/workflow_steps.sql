-- The steps of a workflow that are tasks (or any tasks under one ordering key), in the order in which they were submitted.
-- :tenant  whose fleet
-- :key     the key: a workflow's id, where that has no key of its own
-- :limit   at most so many = 1000
-- A step that is not here has not begun. wait_seconds and run_seconds are as in `tasks`. with_task: of a local step, the
-- task with which it was executed; it began when submitted_at says, and is here for as long as the facts are kept.
WITH t AS MATERIALIZED (
  SELECT t.* FROM coord.v_task AS t WHERE t.tenant = :'tenant' AND t.key = :'key' ORDER BY t.submitted_at, t.id LIMIT :'limit'::bigint
), told AS (
  SELECT e.id, e.event, e.epoch, e.seq, e.agent, o.value AS o
  FROM coord.v_event AS e
  CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(e.data -> 'then') WHEN 'array' THEN e.data -> 'then' ELSE '[]' END) AS o
  WHERE e.tenant = :'tenant' AND e.key = :'key' AND e.kind = 'task' AND e.event IN ('submitted', 'completed')
    AND e.stored_at >= (SELECT min(t.submitted_at) - interval '1 ms' FROM t)
    AND e.stored_at <= (SELECT max(t.ended_at) + interval '1 ms' FROM t)
), local AS (
  SELECT
    done.o ->> 'step' AS id, done.o ->> 'error' AS error, done.o ->> 'message' AS message, t.id AS with_task, t.priority, t.submitter, t.claimant,
    t.claimed_at + coalesce((done.o ->> 'after_s')::double precision, 0) * interval '1 s' AS began_at,
    (done.o ->> 'run_s')::double precision AS run_seconds,
    (SELECT min(offered.o ->> 'task') FROM told AS offered
     WHERE offered.event = 'submitted' AND offered.id = done.id AND offered.o ->> 'step' = done.o ->> 'step') AS capability
  FROM told AS done
  JOIN t ON t.id = done.id AND t.epoch = done.epoch AND t.seq = done.seq
  WHERE done.event = 'completed' AND NOT EXISTS (SELECT FROM t AS own WHERE own.id = done.o ->> 'step')
)
SELECT
  t.id, t.status, t.capability, t.priority, t.submitter, t.claimant, t.submitted_at,
  round(t.wait_seconds::numeric, 3)::double precision AS wait_seconds, round(t.run_seconds::numeric, 3)::double precision AS run_seconds,
  t.attempts, t.error, t.message, NULL::text AS with_task
FROM t
UNION ALL
SELECT
  l.id, CASE WHEN l.error IS NULL THEN 'completed' WHEN l.error = 'rejected' THEN 'rejected' ELSE 'failed' END, l.capability, l.priority,
  l.submitter, l.claimant, l.began_at, 0, round(l.run_seconds::numeric, 3)::double precision, 1, l.error, l.message, l.with_task
FROM local AS l
ORDER BY submitted_at, id
LIMIT :'limit'::bigint
