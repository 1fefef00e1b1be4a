-- How long handoffs take to find somebody, by whom or which capability was asked.
-- :tenant  only this fleet; empty: all
-- :since   offered from then on = yesterday
-- asked counts agents per handoff: 1 is the first one said yes. Times are those of accepted ones.
SELECT
  coalesce(h.capability, h.addressee, '(nobody)') AS asked_for, h.capability IS NOT NULL AS by_capability, count(*) AS handoffs,
  round((count(*) FILTER (WHERE h.status = 'accepted'))::numeric / count(*), 4)::double precision AS accepted,
  count(*) FILTER (WHERE h.ended_at IS NULL) AS open, round(avg(h.asked), 2)::double precision AS asked, sum(h.escalations) AS escalations,
  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY h.seconds) FILTER (WHERE h.status = 'accepted'))::numeric, 3)::double precision AS p50_seconds,
  round((percentile_cont(0.95) WITHIN GROUP (ORDER BY h.seconds) FILTER (WHERE h.status = 'accepted'))::numeric, 3)::double precision AS p95_seconds,
  mode() WITHIN GROUP (ORDER BY h.reason) AS commonest_reason
FROM coord.v_handoff_state AS h
WHERE (:'tenant' = '' OR h.tenant = :'tenant') AND h.offered_at >= :'since'::timestamptz
GROUP BY 1, 2
ORDER BY handoffs DESC, asked_for
