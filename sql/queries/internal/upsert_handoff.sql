-- Entities of coord.handoff that a batch touched, locked in the order of the primary key.
-- One array a column, in the order of coord.store.entities. Those that end now leave a row in coord.outcome.
WITH new AS (
  SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[],
    $7::integer[], $8::bytea[], $9::float8[], $10::float8[], $11::float8[], $12::float8[],
    $13::integer[], $14::integer[], $15::text[], $16::text[], $17::text[], $18::text[],
    $19::text[], $20::text[]
  ) AS new (
    tenant, key, id, changed_at, epoch, seq, idx, fold,
    offered_at, since, answer_by, ended_at, n, escalations, status, offerer,
    addressee, instance, capability, reason
  )
), ended AS (
  INSERT INTO coord.outcome (
    stored_at, wait_s, run_s, attempts, failures, tenant, kind, status, capability, priority, from_agent, agent
  )
  SELECT
    to_timestamp(new.ended_at), greatest(new.ended_at - new.offered_at, 0), NULL,
    new.n, new.escalations, new.tenant, 'handoff', new.status, left(coalesce(new.capability, ''), 64), '',
    new.offerer, coalesce(new.addressee, '')
  FROM new
  LEFT JOIN coord.handoff AS old ON old.tenant = new.tenant AND old.key = new.key AND old.id = new.id
  WHERE new.ended_at IS NOT NULL AND old.ended_at IS DISTINCT FROM to_timestamp(new.ended_at)
)
INSERT INTO coord.handoff (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  offered_at, since, answer_by, ended_at, n, escalations, status, offerer,
  addressee, instance, capability, reason
)
SELECT
  new.tenant, new.key, new.id, new.changed_at, new.epoch, new.seq,
  new.idx, new.fold, to_timestamp(new.offered_at), to_timestamp(new.since), to_timestamp(new.answer_by), to_timestamp(new.ended_at),
  new.n, new.escalations, new.status, new.offerer, new.addressee, new.instance,
  new.capability, new.reason
FROM new
ORDER BY new.tenant, new.key, new.id
ON CONFLICT (tenant, key, id) DO UPDATE SET
  changed_at = excluded.changed_at,
  epoch = excluded.epoch,
  seq = excluded.seq,
  idx = excluded.idx,
  fold = excluded.fold,
  offered_at = excluded.offered_at,
  since = excluded.since,
  answer_by = excluded.answer_by,
  ended_at = excluded.ended_at,
  n = excluded.n,
  escalations = excluded.escalations,
  status = excluded.status,
  offerer = excluded.offerer,
  addressee = excluded.addressee,
  instance = excluded.instance,
  capability = excluded.capability,
  reason = excluded.reason
