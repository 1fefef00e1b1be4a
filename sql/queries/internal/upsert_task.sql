-- Entities of coord.task that a batch touched, locked in the order of the primary key.
-- One array a column, in the order of coord.store.entities. Those that end now leave a row in coord.outcome.
WITH new AS (
  SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[],
    $7::integer[], $8::bytea[], $9::float8[], $10::float8[], $11::float8[], $12::float8[],
    $13::float8[], $14::float8[], $15::double precision[], $16::double precision[], $17::integer[], $18::integer[],
    $19::integer[], $20::integer[], $21::text[], $22::text[], $23::text[], $24::text[],
    $25::text[], $26::text[], $27::text[], $28::text[], $29::text[], $30::text[], $31::integer[], $32::float8[]
  ) AS new (
    tenant, key, id, changed_at, epoch, seq, idx, fold,
    submitted_at, started_first_at, claimed_at, retry_at, ended_at, deadline, run_s, progress,
    claims, failures, deaths, redrives, status, capability, queue, priority,
    submitter, claimant, instance, error, message, correlation_id, retries, timeout_s
  )
), ended AS (
  INSERT INTO coord.outcome (
    stored_at, wait_s, run_s, attempts, failures, tenant, kind, status, capability, priority, from_agent, agent
  )
  SELECT
    to_timestamp(new.ended_at),
    CASE WHEN new.started_first_at IS NOT NULL THEN greatest(new.started_first_at - new.submitted_at, 0) END,
    CASE WHEN new.run_s >= 0 AND new.run_s < 1e9 THEN new.run_s
      WHEN new.status = 'completed' AND new.claimed_at IS NOT NULL THEN greatest(new.ended_at - new.claimed_at, 0) END,
    new.claims, new.failures + new.deaths, new.tenant, 'task', new.status, new.capability, new.priority,
    new.submitter, coalesce(new.claimant, '')
  FROM new
  LEFT JOIN coord.task AS old ON old.tenant = new.tenant AND old.key = new.key AND old.id = new.id
  WHERE new.ended_at IS NOT NULL AND old.ended_at IS DISTINCT FROM to_timestamp(new.ended_at)
)
INSERT INTO coord.task (
  tenant, key, id, changed_at, epoch, seq, idx, fold,
  submitted_at, started_first_at, claimed_at, retry_at, ended_at, deadline, run_s, progress,
  claims, failures, deaths, redrives, status, capability, queue, priority,
  submitter, claimant, instance, error, message, correlation_id, retries, timeout_s
)
SELECT
  new.tenant, new.key, new.id, new.changed_at, new.epoch, new.seq,
  new.idx, new.fold, to_timestamp(new.submitted_at), to_timestamp(new.started_first_at), to_timestamp(new.claimed_at), to_timestamp(new.retry_at),
  to_timestamp(new.ended_at), to_timestamp(new.deadline), new.run_s, new.progress, new.claims, new.failures,
  new.deaths, new.redrives, new.status, new.capability, new.queue, new.priority,
  new.submitter, new.claimant, new.instance, new.error, new.message, new.correlation_id,
  new.retries, new.timeout_s
FROM new
ORDER BY new.tenant, new.key, new.id
ON CONFLICT (tenant, key, id) DO UPDATE SET
  changed_at = excluded.changed_at,
  epoch = excluded.epoch,
  seq = excluded.seq,
  idx = excluded.idx,
  fold = excluded.fold,
  submitted_at = excluded.submitted_at,
  started_first_at = excluded.started_first_at,
  claimed_at = excluded.claimed_at,
  retry_at = excluded.retry_at,
  ended_at = excluded.ended_at,
  deadline = excluded.deadline,
  run_s = excluded.run_s,
  progress = excluded.progress,
  claims = excluded.claims,
  failures = excluded.failures,
  deaths = excluded.deaths,
  redrives = excluded.redrives,
  status = excluded.status,
  capability = excluded.capability,
  queue = excluded.queue,
  priority = excluded.priority,
  submitter = excluded.submitter,
  claimant = excluded.claimant,
  instance = excluded.instance,
  error = excluded.error,
  message = excluded.message,
  correlation_id = excluded.correlation_id,
  retries = excluded.retries,
  timeout_s = excluded.timeout_s
