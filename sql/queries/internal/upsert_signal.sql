-- Entities of coord.signal that a batch touched, locked in the order of the primary key.
-- One array a column, in the order of coord.store.entities.
INSERT INTO coord.signal (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  raised_at, waiting, raised_by, waits
)
SELECT
  new.tenant, new.key, new.id, new.changed_at, new.epoch, new.seq,
  new.idx, new.fold, to_timestamp(new.raised_at), new.waiting, new.raised_by, new.waits
FROM unnest(
  $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[],
  $7::integer[], $8::bytea[], $9::float8[], $10::integer[], $11::text[], $12::jsonb[]
) AS new (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  raised_at, waiting, raised_by, waits
)
ORDER BY new.tenant, new.key, new.id
ON CONFLICT (tenant, key, id) DO UPDATE SET
  changed_at = excluded.changed_at,
  epoch = excluded.epoch,
  seq = excluded.seq,
  idx = excluded.idx,
  fold = excluded.fold,
  raised_at = excluded.raised_at,
  waiting = excluded.waiting,
  raised_by = excluded.raised_by,
  waits = excluded.waits
