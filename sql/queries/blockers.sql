-- Whom the fleet waits for: who holds what others wait for, by how many and for how long.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :limit   at most so many = 50
-- holder is the claimant of tasks, the holder of a lock, who is asked to take a handoff; where nobody has it, "(nobody)".
SELECT
  coalesce(w.holder, '(nobody)') AS holder, w.what, w.waits_for, count(*) AS waiting, count(DISTINCT w.who) AS agents,
  min(w.since) AS since, round(max(w.seconds)::numeric, 1)::double precision AS longest_seconds,
  round(sum(w.seconds)::numeric, 1)::double precision AS sum_seconds
FROM coord.v_waiting AS w
WHERE (:'tenant' = '' OR w.tenant = :'tenant')
GROUP BY 1, w.what, w.waits_for
ORDER BY sum_seconds DESC, holder, w.what, w.waits_for
LIMIT :'limit'::bigint
