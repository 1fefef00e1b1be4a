-- Who waits for what, longest first: tasks, signals, locks, handoffs, workflows.
-- coord: dashboard
-- :tenant  only this fleet; empty: all
-- :what    task, signal, lock, handoff or workflow; empty: all
-- :limit   at most so many = 100
-- A task waits for an agent with its capability, a handoff for whoever is asked, a workflow for its steps.
SELECT w.tenant, w.what, w.id, w.key, w.who, w.state, w.waits_for, w.holder, w.since, round(w.seconds::numeric, 1)::double precision AS seconds, w.detail
FROM coord.v_waiting AS w
WHERE (:'tenant' = '' OR w.tenant = :'tenant') AND (:'what' = '' OR w.what = :'what')
ORDER BY w.since, w.tenant, w.what, w.key, w.id
LIMIT :'limit'::bigint
