-- Signals as they are now: raised or waited for, the newest change first.
-- coord: dashboard
-- :tenant   only this fleet; empty: all
-- :raised   only raised (true) or not (false); empty: all
-- :waited   true: only those somebody waits for = false
-- :limit    at most so many = 50
-- waiting is how many wait for it; each of them is in `waiting`.
SELECT s.tenant, s.key, s.id, s.raised, s.raised_at, s.raised_by, s.waiting, s.changed_at
FROM coord.v_signal AS s
WHERE (:'tenant' = '' OR s.tenant = :'tenant')
  AND (:'raised' = '' OR s.raised = nullif(:'raised', '')::boolean)
  AND (s.waiting > 0 OR NOT :'waited'::boolean)
ORDER BY s.changed_at DESC
LIMIT :'limit'::bigint
