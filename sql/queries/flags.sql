-- Feature flags as they are now, by name.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :set_by  only those that this agent changed last; empty: all
-- :all     true: those that were removed, too = false
-- :limit   at most so many = 100
-- Whether one is on for somebody is computed where it is asked: the first rule that fits decides, else the percentage.
SELECT f.tenant, f.id, f.is_set, f.enabled, f.percentage, f.rules, f.set_at, f.set_by, f.changes
FROM coord.v_flag AS f
WHERE (:'tenant' = '' OR f.tenant = :'tenant')
  AND (:'set_by' = '' OR f.set_by = :'set_by')
  AND (f.is_set OR :'all'::boolean)
ORDER BY f.tenant, f.id
LIMIT :'limit'::bigint
