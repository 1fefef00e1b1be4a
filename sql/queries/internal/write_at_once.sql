-- A small transaction of the projector in one statement: facts, the tasks and workflows they are about, checkpoints. All
-- of it or nothing: nothing where a checkpoint or an entity is not what its writer believes it to be, which `written`
-- tells. Rows are locked in the order in which the long way does: tasks and workflows by primary key, then checkpoints,
-- which wait for all the rest (the counts): what waits for a row or a chunk holds none that a successor needs.
-- A checkpoint that another writer moved meanwhile is an error, which takes back everything: no number is what it says.
-- $1 to $9 checkpoints as checkpoint_advance has them, then one array a column of coord.event; as upsert_task one array
-- a column of coord.task, then the place and the fold of the row that each was folded on, null: none; $66 so workflows.
WITH move AS MATERIALIZED (
  SELECT * FROM unnest(
    $1::text[], $2::smallint[], $3::integer[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bigint[], $8::bigint[],
    $9::bigint[]
  ) AS move (stream, partition, epoch, seq_before, seq, stored_at, pending, digest, messages)
), new_task AS MATERIALIZED (
  SELECT
    new.*, old.ended_at AS ended_before,
    (old.epoch, old.seq, old.idx, old.fold) IS NOT DISTINCT FROM (epoch_before, seq_before, idx_before, fold_before) AS is_believed
  FROM unnest(
      $30::text[], $31::text[], $32::text[], $33::timestamptz[], $34::integer[], $35::bigint[], $36::integer[], $37::bytea[],
      $38::float8[], $39::float8[], $40::float8[], $41::float8[], $42::float8[], $43::float8[], $44::double precision[], $45::double precision[],
      $46::integer[], $47::integer[], $48::integer[], $49::integer[], $50::text[], $51::text[], $52::text[], $53::text[],
      $54::text[], $55::text[], $56::text[], $57::text[], $58::text[], $59::text[], $60::integer[], $61::float8[],
      $62::integer[], $63::bigint[], $64::integer[], $65::bytea[]
  ) AS new (
      tenant, key, id, changed_at, epoch, seq, idx, fold,
      submitted_at, started_first_at, claimed_at, retry_at, ended_at, deadline, run_s, progress,
      claims, failures, deaths, redrives, status, capability, queue, priority,
      submitter, claimant, instance, error, message, correlation_id, retries, timeout_s,
      epoch_before, seq_before, idx_before, fold_before
  )
  LEFT JOIN coord.task AS old ON old.tenant = new.tenant AND old.key = new.key AND old.id = new.id
), new_workflow AS MATERIALIZED (
  SELECT
    new.*, old.ended_at AS ended_before,
    (old.epoch, old.seq, old.idx, old.fold) IS NOT DISTINCT FROM (epoch_before, seq_before, idx_before, fold_before) AS is_believed
  FROM unnest(
      $66::text[], $67::text[], $68::text[], $69::timestamptz[], $70::integer[], $71::bigint[], $72::integer[], $73::bytea[],
      $74::float8[], $75::float8[], $76::text[], $77::text[], $78::text[], $79::text[], $80::text[], $81::text[],
      $82::text[], $83::text[], $84::text[], $85::text[], $86::integer[], $87::bigint[], $88::integer[], $89::bytea[]
  ) AS new (
      tenant, key, id, changed_at, epoch, seq, idx, fold,
      started_at, ended_at, status, name, version, submitter, parent, step,
      error, message, correlation_id, rerun_of,
      epoch_before, seq_before, idx_before, fold_before
  )
  LEFT JOIN coord.workflow AS old ON old.tenant = new.tenant AND old.key = new.key AND old.id = new.id
), guard AS MATERIALIZED (
  SELECT
    (SELECT count(*) FROM move) = (
      SELECT count(*) FROM move AS m
      JOIN coord.checkpoint AS c
        ON c.stream = m.stream AND c.partition = m.partition AND c.epoch = m.epoch AND c.seq = m.seq_before
    )
    AND NOT EXISTS (SELECT FROM new_task WHERE NOT is_believed)
    AND NOT EXISTS (SELECT FROM new_workflow WHERE NOT is_believed) AS holds
), fact AS (
  INSERT INTO coord.event (
    stored_at, epoch, seq, idx, partition, tenant, agent, key, kind, id, event, detail,
    event_id, type, schema, occurred_at, correlation_id, causation_id, traceparent, data
  )
  SELECT * FROM unnest(
    $10::timestamptz[], $11::integer[], $12::bigint[], $13::integer[], $14::smallint[], $15::text[], $16::text[], $17::text[],
    $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::integer[], $25::timestamptz[],
    $26::text[], $27::text[], $28::text[], $29::jsonb[]
  )
  WHERE (SELECT holds FROM guard)
  RETURNING 1
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
  FROM new_task AS new
  WHERE (SELECT holds FROM guard) AND new.ended_at IS NOT NULL AND ended_before IS DISTINCT FROM to_timestamp(new.ended_at)
  UNION ALL
  SELECT
    to_timestamp(new.ended_at), NULL, greatest(new.ended_at - new.started_at, 0),
    1, 0, new.tenant, 'workflow', new.status, new.name, '', new.submitter, ''
  FROM new_workflow AS new
  WHERE (SELECT holds FROM guard) AND new.ended_at IS NOT NULL AND ended_before IS DISTINCT FROM to_timestamp(new.ended_at)
  RETURNING 1
), task AS (
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
  FROM new_task AS new
  WHERE (SELECT holds FROM guard)
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
  RETURNING 1
), workflow AS (
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
  FROM new_workflow AS new
  WHERE (SELECT holds FROM guard)
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
  RETURNING 1
), moved AS (
  UPDATE coord.checkpoint AS c
  SET
    seq = m.seq, stored_at = m.stored_at, pending = m.pending, digest = m.digest, messages = m.messages,
    updated_at = clock_timestamp()
  FROM move AS m
  WHERE c.stream = m.stream AND c.partition = m.partition AND c.epoch = m.epoch AND c.seq = m.seq_before
    AND (SELECT holds FROM guard)
    AND (SELECT count(*) FROM fact) + (SELECT count(*) FROM task) + (SELECT count(*) FROM workflow)
      + (SELECT count(*) FROM ended) >= 0
  RETURNING 1
)
SELECT
  holds AS written,
  CAST(
    CASE
      WHEN holds AND (SELECT count(*) FROM moved) < (SELECT count(*) FROM move) THEN 'a checkpoint moved meanwhile'
      ELSE '1'
    END AS integer
  ) AS all_moved
FROM guard
