"""Submitting again what ended without success: `coord task retry`, `coord dlq redrive`."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from coord import errors
from coord.client.histories import read
from coord.core.flow_run import AGENT as _WORKFLOW
from coord.wire.records import Fact

if TYPE_CHECKING:
    from coord.client.connect import Coord

_NOT_AGAIN: Final = (
    "redrive", "restated", "carried", "deadline", "instance", "progress", "reuse_key", "failures", "then"
)  # fmt: skip
"""What the new submission does not take over: the deadline has passed, the old submitter is told nothing, and only
deciders may offer local steps: who told of some would be refused."""


async def redrive(
    coord: Coord, id: str, key: str | None = None, *, workflow_tasks: bool = False, paced: bool = False
) -> int:
    """Submit a task again that failed, was rejected, cancelled or expired; the stream sequence of that.

    With the same input, bounds and queue, and no deadline.  It is its n-th life: retries and deaths
    are counted from 0 again.  Whoever else redrives it meanwhile, one of both is refused.  A task of a workflow
    is left alone without `workflow_tasks`: the workflow has gone on without it, and may have undone what it builds on.
    `paced`: it waits until its capability takes one more, as a submission does (`Overloaded`, `CircuitOpen`).

    Raises `UnknownTask`, `TaskExists` (it is open, or was completed), `TaskOfWorkflow`, `WrongLastSequence` (somebody
    said something about it meanwhile: look again), and what publishing raises.
    """
    key = id if key is None else key
    task, facts = await read(coord.connection, coord.tenant, key, id)
    if task is None:
        raise errors.UnknownTask("the log holds no such task", task=id, key=key)
    if not task.ended or task.status == "completed":
        raise errors.TaskExists(f"it is {task.status}: there is nothing to do again", task=id, key=key)
    if not workflow_tasks and (task.submitter == _WORKFLOW or any(fact.agent == _WORKFLOW for fact in facts)):
        raise errors.TaskOfWorkflow(task=id, workflow=key)
    begun = next((fact for fact in facts if fact.seq == task.submitted_seq), None)
    if begun is None:
        raise errors.UnknownTask("its submission has left the log", task=id, key=key)
    if paced:
        await coord.entering(task.capability, urgent=task.queue == "critical")
    data = said_again(begun.data, task.redrives + 1)
    fact = Fact(kind="task", event="submitted", id=id, key=key, detail=(task.capability, task.queue), data=data)
    ack = await coord.stating.send(fact, last=facts[-1].seq)
    return ack.seq


def said_again(said: Any, redrive: int) -> dict[str, Any]:
    """What the `redrive`-th new submission of a task says, the one before having said `said`."""
    before = said if isinstance(said, dict) else {}
    return {name: value for name, value in before.items() if name not in _NOT_AGAIN} | {"redrive": redrive}
