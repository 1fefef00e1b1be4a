-- Who waits for what, longest first: tasks, signals, locks, handoffs, workflows.
-- :tenant  only this fleet; empty: all
-- :what    task, signal, lock, handoff or workflow; empty: all
-- :limit   at most so many = 100
SELECT w.tenant, w.what, w.id, w.key, w.who, w.state, w.waits_for, w.holder, w.since, round(w.seconds::numeric, 1)::double precision AS seconds, w.detail
FROM coord.v_waiting AS w
WHERE (:'tenant' = '' OR w.tenant = :'tenant') AND (:'what' = '' OR w.what = :'what')
ORDER BY w.since, w.tenant, w.what, w.key, w.id
LIMIT :'limit'::bigint
