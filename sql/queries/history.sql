-- Everything about one piece of work, in the order of the log.
-- :tenant  whose fleet
-- :key     the ordering key: a workflow's id, a lone task's id, an agent's name
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- Facts of one key are ordered by (epoch, seq, idx), whatever the agents' clocks say.
SELECT e.stored_at, e.agent, e.kind, e.id, e.event, e.detail, e.data, e.event_id, e.causation_id, e.epoch, e.seq, e.idx
FROM coord.v_event AS e
WHERE e.tenant = :'tenant' AND e.key = :'key'
  AND e.stored_at >= :'since'::timestamptz AND e.stored_at < :'until'::timestamptz
ORDER BY e.epoch, e.seq, e.idx
