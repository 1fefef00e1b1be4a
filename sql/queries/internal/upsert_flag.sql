-- Entities of coord.flag that a batch touched, locked in the order of the primary key.
-- One array a column, in the order of coord.store.entities.
INSERT INTO coord.flag (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  set_at, percentage, changes, enabled, set_by, rules
)
SELECT
  new.tenant, new.key, new.id, new.changed_at, new.epoch, new.seq,
  new.idx, new.fold, to_timestamp(new.set_at), new.percentage, new.changes, new.enabled,
  new.set_by, new.rules
FROM unnest(
  $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[],
  $7::integer[], $8::bytea[], $9::float8[], $10::double precision[], $11::integer[], $12::boolean[],
  $13::text[], $14::jsonb[]
) AS new (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  set_at, percentage, changes, enabled, set_by, rules
)
ORDER BY new.tenant, new.key, new.id
ON CONFLICT (tenant, key, id) DO UPDATE SET
  changed_at = excluded.changed_at,
  epoch = excluded.epoch,
  seq = excluded.seq,
  idx = excluded.idx,
  fold = excluded.fold,
  set_at = excluded.set_at,
  percentage = excluded.percentage,
  changes = excluded.changes,
  enabled = excluded.enabled,
  set_by = excluded.set_by,
  rules = excluded.rules
