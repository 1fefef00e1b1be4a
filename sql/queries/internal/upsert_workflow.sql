-- Entities of coord.workflow that a batch touched, locked in the order of the primary key.
-- One array a column, in the order of coord.store.entities. Those that end now leave a row in coord.outcome.
WITH new AS (
  SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[],
    $7::integer[], $8::bytea[], $9::float8[], $10::float8[], $11::text[], $12::text[],
    $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[],
    $19::text[], $20::text[]
  ) AS new (
    tenant, key, id, changed_at, epoch, seq, idx, fold,
    started_at, ended_at, status, name, version, submitter, parent, step,
    error, message, correlation_id, rerun_of
  )
), ended AS (
  INSERT INTO coord.outcome (
    stored_at, wait_s, run_s, attempts, failures, tenant, kind, status, capability, priority, from_agent, agent
  )
  SELECT
    to_timestamp(new.ended_at), NULL, greatest(new.ended_at - new.started_at, 0),
    1, 0, new.tenant, 'workflow', new.status, new.name, '', new.submitter, ''
  FROM new
  LEFT JOIN coord.workflow AS old ON old.tenant = new.tenant AND old.key = new.key AND old.id = new.id
  WHERE new.ended_at IS NOT NULL AND old.ended_at IS DISTINCT FROM to_timestamp(new.ended_at)
)
INSERT INTO coord.workflow (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  started_at, ended_at, status, name, version, submitter, parent, step,
  error, message, correlation_id, rerun_of
)
SELECT
  new.tenant, new.key, new.id, new.changed_at, new.epoch, new.seq,
  new.idx, new.fold, to_timestamp(new.started_at), to_timestamp(new.ended_at), new.status, new.name,
  new.version, new.submitter, new.parent, new.step, new.error, new.message,
  new.correlation_id, new.rerun_of
FROM new
ORDER BY new.tenant, new.key, new.id
ON CONFLICT (tenant, key, id) DO UPDATE SET
  changed_at = excluded.changed_at,
  epoch = excluded.epoch,
  seq = excluded.seq,
  idx = excluded.idx,
  fold = excluded.fold,
  started_at = excluded.started_at,
  ended_at = excluded.ended_at,
  status = excluded.status,
  name = excluded.name,
  version = excluded.version,
  submitter = excluded.submitter,
  parent = excluded.parent,
  step = excluded.step,
  error = excluded.error,
  message = excluded.message,
  correlation_id = excluded.correlation_id,
  rerun_of = excluded.rerun_of
