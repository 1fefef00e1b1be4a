-- Handoffs as they are now, newest first.
-- coord: dashboard
-- :tenant      only this fleet; empty: all
-- :status      only in this status; empty: all
-- :capability  only offered to this capability; empty: all
-- :agent       only offered by, asked of or accepted by this agent; empty: all
-- :since       offered from then on = -infinity
-- :limit       at most so many = 50
-- asked is how many agents were asked so far; seconds runs until it ended, or until now.
SELECT
  h.tenant, h.id, h.key, h.status, h.offerer, h.addressee, h.capability, h.asked, h.escalations, h.offered_at,
  round(h.seconds::numeric, 3)::double precision AS seconds, h.reason
FROM coord.v_handoff_state AS h
WHERE (:'tenant' = '' OR h.tenant = :'tenant')
  AND (:'status' = '' OR h.status = :'status')
  AND (:'capability' = '' OR h.capability = :'capability')
  AND (:'agent' = '' OR h.offerer = :'agent' OR h.addressee = :'agent')
  AND h.offered_at >= :'since'::timestamptz
ORDER BY h.offered_at DESC
LIMIT :'limit'::bigint
