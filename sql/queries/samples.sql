-- Every telemetry sample, in the order in which the stream stored them: to export.
-- coord: export
-- :tenant  only this fleet; empty: all
-- :since   stored from then on = -infinity
-- :until   stored before = infinity
-- :series  only of this series; empty: all
-- Of any size: `-o parquet --to FILE` holds a batch in memory at a time.
SELECT s.stored_at, s.tenant, s.agent, s.series, s.value, s.data, s.occurred_at, s.epoch, s.seq, s.idx
FROM coord.v_metric_sample AS s
WHERE (:'tenant' = '' OR s.tenant = :'tenant') AND (:'series' = '' OR s.series = :'series')
  AND s.stored_at >= :'since'::timestamptz AND s.stored_at < :'until'::timestamptz
ORDER BY s.stored_at, s.epoch, s.seq, s.idx
