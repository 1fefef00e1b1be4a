-- A page of the log as rows, for this transaction.
CREATE TEMPORARY TABLE said_event (LIKE coord.event) ON COMMIT DROP;
ALTER TABLE said_event DROP COLUMN projected_at
