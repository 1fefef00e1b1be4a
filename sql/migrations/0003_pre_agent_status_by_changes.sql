-- A status that is said by changes (docs/adr/0040): what the row's status is built upon.
--
-- The projector of the release before parks changes as dead letters (wire.author): upgrade projectors
-- before agents say their status by changes.

ALTER TABLE coord.agent ADD COLUMN status_rev jsonb;
COMMENT ON COLUMN coord.agent.status_rev IS
  'Run and number of the statement that status is, and the changes that wait for a missing one; null: a plain status.';
