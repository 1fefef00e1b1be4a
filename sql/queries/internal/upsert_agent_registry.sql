-- Entities of coord.agent_registry that a batch touched, locked in the order of the primary key.
-- One array a column, in the order of coord.store.entities.
INSERT INTO coord.agent_registry (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  registered_at, instances_there, coordinator, model, version, capabilities, labels, instances, state, quota
)
SELECT
  new.tenant, new.key, new.id, new.changed_at, new.epoch, new.seq,
  new.idx, new.fold, to_timestamp(new.registered_at), new.instances_there, new.coordinator, new.model,
  new.version, new.capabilities, new.labels, new.instances, new.state, new.quota
FROM unnest(
  $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[],
  $7::integer[], $8::bytea[], $9::float8[], $10::integer[], $11::text[], $12::text[],
  $13::text[], $14::jsonb[], $15::jsonb[], $16::jsonb[], $17::text[], $18::text[]
) AS new (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  registered_at, instances_there, coordinator, model, version, capabilities, labels, instances, state, quota
)
ORDER BY new.tenant, new.key, new.id
ON CONFLICT (tenant, key, id) DO UPDATE SET
  changed_at = excluded.changed_at,
  epoch = excluded.epoch,
  seq = excluded.seq,
  idx = excluded.idx,
  fold = excluded.fold,
  registered_at = excluded.registered_at,
  instances_there = excluded.instances_there,
  coordinator = excluded.coordinator,
  model = excluded.model,
  version = excluded.version,
  capabilities = excluded.capabilities,
  labels = excluded.labels,
  instances = excluded.instances,
  state = excluded.state,
  quota = excluded.quota
