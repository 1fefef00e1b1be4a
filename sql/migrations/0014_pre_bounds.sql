-- What bounds a task, which may be its handler's word (docs/adr/0134): a claim says so. Rows that nothing changes any more stay as they are.

ALTER TABLE coord.task ADD COLUMN retries integer;
ALTER TABLE coord.task ADD COLUMN timeout_s double precision;
COMMENT ON COLUMN coord.task.retries IS 'Failures that it may have before the last one; null: not known before it is claimed.';
COMMENT ON COLUMN coord.task.timeout_s IS 'Seconds that one execution may take; null: not known before it is claimed.';
