-- Which workflow another one goes on from (docs/adr/0147). Rows that nothing changes any more stay as they are: there were no reruns.

ALTER TABLE coord.workflow ADD COLUMN rerun_of text;
COMMENT ON COLUMN coord.workflow.rerun_of IS 'The workflow whose steps it took over; null: none.';
