-- The batch's handoffs as their facts leave them at that moment.
-- :seq    sequence that stands as their newest fact's
-- :epoch  incarnation of the log = 1
-- :until  the moment
INSERT INTO coord.handoff (
  changed_at, offered_at, since, answer_by, ended_at, seq, epoch, idx, n, escalations, tenant, key, id, status, offerer, addressee, instance, fold
)
SELECT
  coalesce(h.settled_at, h.offered_at), h.offered_at, coalesce(h.settled_at, h.offered_at), h.offered_at + interval '30 s', h.settled_at,
  :'seq'::bigint + h.n, :'epoch'::integer, 0, 1, 0, h.tenant, h.key, 'h' || h.place, CASE WHEN h.settled_at IS NULL THEN 'offered' ELSE 'accepted' END,
  h.worker, h.next_worker, h.instance, decode(repeat(h.random, 18), 'hex')
FROM (
  SELECT m.*, t.offered_at, CASE WHEN t.offered_at + interval '0.1 s' < :'until'::timestamptz THEN t.offered_at + interval '0.1 s' END AS settled_at
  FROM made AS m
  CROSS JOIN LATERAL (SELECT m.claimed_at + m.run_s * interval '0.6 s' AS offered_at) AS t
  WHERE m.is_handed AND t.offered_at < :'until'::timestamptz
) AS h
ON CONFLICT DO NOTHING
