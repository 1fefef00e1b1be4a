-- The statuses that changes in a batch may build upon.  $1 tenants, $2 agents.
-- Not locked: facts about an agent are all of one partition, and whoever else commits that moves its checkpoint.
SELECT a.tenant, a.agent, a.status::text, a.status_rev::text, a.epoch, a.seq, a.idx
FROM coord.agent AS a
JOIN unnest($1::text[], $2::text[]) AS wanted (tenant, agent) USING (tenant, agent)
