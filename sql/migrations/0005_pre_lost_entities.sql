-- What a status may be besides (docs/adr/0082): lost, of what was open in a log that is gone; and an agent's state.

COMMENT ON COLUMN coord.agent.state IS 'alive, suspect, draining, quarantined, left or gone.';
COMMENT ON COLUMN coord.task.status IS
  'queued, claimed, waiting, completed, rejected, failed, cancelled or expired; lost: the log that held it is gone.';
COMMENT ON COLUMN coord.workflow.status IS
  'running, compensating, completed, failed or cancelled; lost: the log that held it is gone.';
COMMENT ON COLUMN coord.handoff.status IS
  'seeking, offered, accepted, withdrawn or expired; lost: the log that held it is gone.';
