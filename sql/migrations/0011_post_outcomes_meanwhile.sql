-- Ends that processes of the release before wrote while 0009 was there already: they know nothing of coord.outcome.
--
-- Counted by tenant, kind and time and not compared: what one message ended, one process wrote. A day is looked back for
-- a projector that was behind then.

DO $$
DECLARE
  begin_at CONSTANT timestamptz := (SELECT m.applied_at FROM coord.migration AS m WHERE m.number = 9) - INTERVAL '1 day';
  oldest timestamptz;
  found  record;
BEGIN
  WITH ended AS (
    SELECT
      ended_at AS stored_at,
      CASE WHEN started_first_at IS NOT NULL
        THEN greatest(extract(epoch FROM started_first_at - submitted_at), 0)::double precision END AS wait_s,
      CASE WHEN run_s >= 0 AND run_s < 1e9 THEN run_s
        WHEN status = 'completed' AND claimed_at IS NOT NULL
        THEN greatest(extract(epoch FROM ended_at - claimed_at), 0)::double precision END AS run_s,
      claims AS attempts, failures + deaths AS failures, tenant, 'task' AS kind, status, capability, priority,
      submitter AS from_agent, coalesce(claimant, '') AS agent, id
    FROM coord.task WHERE ended_at >= begin_at AND status <> 'lost'
    UNION ALL
    SELECT
      ended_at, greatest(extract(epoch FROM ended_at - offered_at), 0)::double precision, NULL,
      n, escalations, tenant, 'handoff', status, left(coalesce(capability, ''), 64), '', offerer,
      coalesce(addressee, ''), id
    FROM coord.handoff WHERE ended_at >= begin_at AND status <> 'lost'
    UNION ALL
    SELECT
      ended_at, NULL, greatest(extract(epoch FROM ended_at - started_at), 0)::double precision,
      1, 0, tenant, 'workflow', status, name, '', submitter, '', id
    FROM coord.workflow WHERE ended_at >= begin_at AND status <> 'lost'
  ), there AS (
    SELECT o.tenant, o.kind, o.stored_at, count(*) AS rows
    FROM coord.outcome AS o WHERE o.stored_at >= begin_at GROUP BY o.tenant, o.kind, o.stored_at
  ), put AS (
    INSERT INTO coord.outcome (
      stored_at, wait_s, run_s, attempts, failures, tenant, kind, status, capability, priority, from_agent, agent
    )
    SELECT
      e.stored_at, e.wait_s, e.run_s, e.attempts, e.failures, e.tenant, e.kind, e.status, e.capability, e.priority,
      e.from_agent, e.agent
    FROM (
      SELECT ended.*, row_number() OVER (PARTITION BY ended.tenant, ended.kind, ended.stored_at ORDER BY ended.id) AS nth
      FROM ended
    ) AS e
    LEFT JOIN there ON (there.tenant, there.kind, there.stored_at) = (e.tenant, e.kind, e.stored_at)
    WHERE e.nth > coalesce(there.rows, 0)
    RETURNING stored_at
  )
  SELECT date_bin(INTERVAL '1 day', min(put.stored_at), TIMESTAMPTZ '2000-01-03 00:00:00+00') INTO oldest FROM put;
  IF oldest IS NULL THEN
    RETURN;
  END IF;

  -- What rollups have counted of that time is taken back and counted again (as coord/store/rollups.py, forget). Not
  -- continuous aggregates: they notice what was put, and count it as far as they look back, a week unless ages.hot_days
  -- says otherwise. To have them count from further back would empty them where their source has been dropped since.
  FOR found IN
    SELECT r.name FROM coord.rollup AS r
    INNER JOIN pg_class AS c ON c.oid = to_regclass(format('coord.%I', r.name)) AND c.relkind = 'r'
    WHERE r.name ~ '^(handoff|outcome|run|wait|work)_1[mhd]$'
  LOOP
    UPDATE coord.rollup SET progress = least(progress, oldest), shown = least(shown, oldest) WHERE name = found.name;
    EXECUTE format('DELETE FROM coord.%I WHERE bucket >= $1', found.name) USING oldest;
  END LOOP;
END
$$;
