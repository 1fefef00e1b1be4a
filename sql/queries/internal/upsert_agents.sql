-- Agents touched by a batch, locked in the order of the primary key; what stands later in the log wins.
-- $1 tenants, $2 agents, $3 first seen, $4 last seen, $5 states, $6 statuses, $7 epochs, $8 seqs, $9 idxs, $10 status_revs.
-- A state or status the batch does not tell (null) stays as it is; a status brings its status_rev.
-- Who registered is what the fold of its registrations says, which the same transaction has saved before.
INSERT INTO coord.agent AS a (tenant, agent, first_seen, last_seen, state, status, epoch, seq, idx, status_rev)
SELECT
  new.tenant, new.agent, new.first_seen, new.last_seen,
  coalesce(reg.state, new.state, old.state, 'alive'), new.status, new.epoch, new.seq, new.idx,
  new.status_rev
FROM unnest(
  $1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::jsonb[], $7::int[], $8::bigint[], $9::int[],
  $10::jsonb[]
) AS new (tenant, agent, first_seen, last_seen, state, status, epoch, seq, idx, status_rev)
LEFT JOIN coord.agent AS old ON old.tenant = new.tenant AND old.agent = new.agent
LEFT JOIN coord.agent_registry AS reg ON reg.tenant = new.tenant AND reg.key = new.agent AND reg.id = new.agent
ORDER BY new.tenant, new.agent
ON CONFLICT (tenant, agent) DO UPDATE SET
  first_seen = least(a.first_seen, excluded.first_seen),
  last_seen = greatest(a.last_seen, excluded.last_seen),
  state = excluded.state,
  status = coalesce(excluded.status, a.status),
  status_rev = CASE WHEN excluded.status IS NULL AND excluded.status_rev IS NULL THEN a.status_rev ELSE excluded.status_rev END,
  epoch = excluded.epoch,
  seq = excluded.seq,
  idx = excluded.idx
WHERE (a.epoch, a.seq, a.idx) < (excluded.epoch, excluded.seq, excluded.idx)
