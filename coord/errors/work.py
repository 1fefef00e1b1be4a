"""Errors of what agents coordinate with: tasks, agents, workflows, latches."""

from __future__ import annotations

from coord.errors.spine import CoordError, Fault

# --- tasks -------------------------------------------------------------------------------


class TaskError(CoordError):
    """A task did not succeed."""

    code = "task.error"
    fault = Fault.SENDER
    remedy = "Look at the task: `coord task get`."


class TaskFailed(TaskError):
    """The task's last attempt failed, or the agents that took it died too often."""

    code = "task.failed"
    remedy = "`error` says what kind; submit it again when its cause is mended: `coord task retry`."


class TaskRejected(TaskError):
    """The handler says that no attempt can succeed; the reason is in the message."""

    code = "task.rejected"
    remedy = "Change the input, and submit it under another id."


class TaskCancelled(TaskError):
    """The task was cancelled before it had an outcome."""

    code = "task.cancelled"
    fault = Fault.CALLER


class TaskExpired(TaskError):
    """The task had no outcome by its deadline."""

    code = "task.expired"
    fault = Fault.OPERATOR
    remedy = "Give it more time, or its capability more agents; `coord status` names what is starved."


class TaskExists(CoordError):
    """A task of this id was submitted before, and it was another one; `first_event_id` names it."""

    code = "task.exists"
    fault = Fault.CALLER
    remedy = "Use another id for different work."


class TaskOfWorkflow(CoordError):
    """The task is a workflow's; what it came to alone would change nothing about how that ended."""

    code = "task.of_workflow"
    fault = Fault.CALLER
    remedy = (
        "Run the workflow again from that step: `coord workflow rerun`; `--workflow-tasks` submits its task, alone."
    )


class StepRefused(CoordError):
    """A step of a handler that cannot be recorded under its name, or as its type."""

    code = "task.step_refused"
    fault = Fault.CALLER
    remedy = "Give each step of a task a name of its own, and a result that JSON can hold. More than 1,000: more tasks."


class UnknownTask(CoordError):
    """No task of this id is in the log."""

    code = "task.unknown"
    fault = Fault.CALLER
    remedy = "Check id and key; tasks that ended long ago are in the table `coord.v_task`."


class SignalDeadlock(CoordError):
    """Agents wait for each other's signals; `cycle` names who waits for what."""

    code = "signal.deadlocked"
    fault = Fault.CALLER
    remedy = "Let one of them raise its signal without waiting, or raise it by hand: `coord signal raise`."


class TimerTaken(CoordError):
    """Another agent has set this timer; `setter` names it."""

    code = "timer.taken"
    fault = Fault.CALLER
    remedy = "Use another id, or let that agent cancel it."


class LockRefused(CoordError):
    """The lock is in use with another number of permits, or too many wait for it."""

    code = "lock.refused"
    fault = Fault.CALLER
    remedy = "Ask for as many permits as everybody does, under one name for one thing."


class Decline(CoordError):
    """Raised by a handler of handoffs: it is not for this agent; the message says why."""

    code = "handoff.declined"
    fault = Fault.CALLER
    remedy = "Nothing: the next agent is asked, or a coordinator."


class HandoffExpired(CoordError):
    """Nobody took the handoff: all that could be asked declined or were silent, or it was withdrawn."""

    code = "handoff.expired"
    fault = Fault.OPERATOR
    remedy = "See who was asked and why not: `status()` of the handoff; register a coordinator."


class HandoffExists(CoordError):
    """A handoff of this id was offered before, and it was another one; `first_event_id` names it."""

    code = "handoff.exists"
    fault = Fault.CALLER
    remedy = "Use another id for a different piece of work."


class HandoffOver(CoordError):
    """The handoff is somebody else's meanwhile, or was withdrawn."""

    code = "handoff.over"
    fault = Fault.CALLER
    remedy = "Leave the work to whoever has it."


class WorkflowError(CoordError):
    """A workflow did not complete."""

    code = "workflow.error"
    fault = Fault.SENDER
    remedy = "Look at the workflow: `coord workflow get`."


class WorkflowFailed(WorkflowError):
    """A step of the workflow failed; `step` names it, `error` says what kind."""

    code = "workflow.failed"
    remedy = "Mend what the step needs, and run the workflow again from there: `coord workflow rerun`."


class WorkflowCancelled(WorkflowError):
    """The workflow was cancelled before it had ended."""

    code = "workflow.cancelled"
    fault = Fault.CALLER


class WorkflowExists(CoordError):
    """A workflow of this id was started before, and it was another one; `first_event_id` names it."""

    code = "workflow.exists"
    fault = Fault.CALLER
    remedy = "Use another id for other work."


class NotSubmitter(CoordError):
    """Another agent has started this workflow; `submitter` names it."""

    code = "workflow.not_submitter"
    fault = Fault.CALLER
    remedy = "Let that agent cancel it: `coord workflow cancel` without --agent speaks as it."


class UnknownWorkflow(CoordError):
    """No workflow of this id is in the log."""

    code = "workflow.unknown"
    fault = Fault.CALLER
    remedy = "Check the id; workflows that ended long ago are in the table `coord.v_workflow`."


class UnknownSignal(CoordError):
    """No step of this workflow waits for this signal, nor has anybody under its key; `signals` are its steps'."""

    code = "workflow.unknown_signal"
    fault = Fault.CALLER
    remedy = "Name one of `signals`; what agents wait for under its key: `coord signal raise NAME --key WORKFLOW`."


class WorkflowOver(CoordError):
    """The workflow has ended: nobody waits for this signal any more."""

    code = "workflow.over"
    fault = Fault.CALLER
    remedy = "Look at how it ended: `coord workflow get`; for agents: `coord signal raise NAME --key WORKFLOW`."


class WorkflowGone(CoordError):
    """What a workflow's steps gave cannot be read: its facts have left log and tables, or a large output is gone.

    `since`, `until`: when it ran, where the tables still have its row; `step`: whose output is gone.
    """

    code = "workflow.gone"
    fault = Fault.CALLER
    remedy = (
        "Where there is an archive: `coord db archive restore --since … --until …`, then again; else start it from the "
        "beginning. Of a lost output (`step`) run that step again: `--from`."
    )


class WorkflowNotOver(CoordError):
    """The workflow may still undo what another one would build on; `steps` are those with an undo that it has done."""

    code = "workflow.not_over"
    retryable = True
    fault = Fault.CALLER
    remedy = "Wait for its end, or cancel it: what it then undoes is done again."


class InvalidWorkflow(CoordError):
    """A workflow's definition is not one; `step` names the culprit."""

    code = "workflow.invalid"
    fault = Fault.CALLER
    remedy = "Compare it with docs/howto/workflows.md."


class CyclicWorkflow(InvalidWorkflow):
    """Steps wait for each other in a circle; `cycle` names them."""

    code = "workflow.cyclic"
    remedy = "Let one of the steps in `cycle` no longer be after the one before it."


class UnknownStep(InvalidWorkflow):
    """A step, or who asks to run again from one, names a step that there is none of; `unknown` is that name."""

    code = "workflow.unknown_step"
    remedy = "Add the step that `unknown` names, or mend the name."


class StepsDiffer(CoordError):
    """The other definition makes another thing of steps whose outputs would be taken over; `steps` names them."""

    code = "workflow.steps_differ"
    fault = Fault.CALLER
    remedy = "Run them again too (`--from`), or let them ask the same capability, table, signal or workflow."


class StepWithoutHandler(InvalidWorkflow):
    """A step does not say, or says twice, what is to be done."""

    code = "workflow.no_handler"
    remedy = "Give each step exactly one of task, workflow, signal, decide and sleep_s."


class DuplicateStep(InvalidWorkflow):
    """Two steps would have tasks of one id."""

    code = "workflow.duplicate_step"
    remedy = "Rename one of the two."


class UnknownAgent(CoordError):
    """No instance of this agent is there."""

    code = "coord.agent_unknown"
    fault = Fault.CALLER
    remedy = "`coord agent ls` shows who is; an agent that does not beat is not seen."


class Reject(CoordError):
    """Raised by a handler: no attempt can succeed.  The task ends at once, with the reason, as a dead letter."""

    code = "task.reject"
    fault = Fault.SENDER
    remedy = "Change the input."
