-- Nobody writes entities from here on. In the order in which the projector locks them: whoever is at it ends first.
LOCK TABLE coord.task, coord.workflow, coord.handoff, coord.signal, coord.lock, coord.flag, coord.agent_registry, coord.agent
IN ACCESS EXCLUSIVE MODE
