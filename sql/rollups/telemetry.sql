-- Telemetry samples by agent and series: sums and counts, never averages.
SELECT
  s.tenant, -- Whose fleet.
  s.agent, -- Who measured.
  s.series, -- What was measured.
  count(*)::bigint AS samples, -- sum: How many samples.
  sum(s.value::numeric)::numeric AS value_sum, -- sum: Their sum, exact: divide by samples for the average.
  min(s.value)::double precision AS value_min, -- min: The smallest.
  max(s.value)::double precision AS value_max -- max: The largest.
FROM coord.metric_sample AS s
