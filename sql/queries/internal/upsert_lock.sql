-- Entities of coord.lock that a batch touched, locked in the order of the primary key.
-- One array a column, in the order of coord.store.entities.
INSERT INTO coord.lock (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  permits, holding, waiting, requests
)
SELECT
  new.tenant, new.key, new.id, new.changed_at, new.epoch, new.seq,
  new.idx, new.fold, new.permits, new.holding, new.waiting, new.requests
FROM unnest(
  $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[],
  $7::integer[], $8::bytea[], $9::integer[], $10::integer[], $11::integer[], $12::jsonb[]
) AS new (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  permits, holding, waiting, requests
)
ORDER BY new.tenant, new.key, new.id
ON CONFLICT (tenant, key, id) DO UPDATE SET
  changed_at = excluded.changed_at,
  epoch = excluded.epoch,
  seq = excluded.seq,
  idx = excluded.idx,
  fold = excluded.fold,
  permits = excluded.permits,
  holding = excluded.holding,
  waiting = excluded.waiting,
  requests = excluded.requests
