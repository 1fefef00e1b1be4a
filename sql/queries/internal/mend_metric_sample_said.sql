-- A page of the log as rows, for this transaction.
CREATE TEMPORARY TABLE said_metric_sample (LIKE coord.metric_sample) ON COMMIT DROP;
ALTER TABLE said_metric_sample DROP COLUMN projected_at
