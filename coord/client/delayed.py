"""Tasks that are submitted later, once: a timer says the submission when it fires.

The timer has the task's id, and refuses it to other work as the task does: an id that a task has is looked
up before the timer is set, one that another timer is to submit is seen in the timer.  Who takes the id
meanwhile, by a submission of his own, has it: the log decides.  So the handle of a delayed task looks, before
it gives an outcome, whether it is the one of its work, and raises `TaskExists` otherwise.

With `reuse_for_s` the id is the work's: what was done answers at once.  Otherwise it is decided when the timer fires:
what runs then, or was done meanwhile, is joined, and what failed is begun anew, as the next generation.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from coord import errors
from coord.client.asks import Ask, Delayed, check_same, same
from coord.client.event_ids import new_event_id
from coord.client.histories import facts_of
from coord.client.task_handle import TaskHandle
from coord.client.timers import INLINE_BYTES, due_at
from coord.core import tasks
from coord.core.timers import Timer
from coord.wire import arguments
from coord.wire.timing import Submit, Then, TimerSet

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.submitting import Submitter


async def submit_later(
    submitter: Submitter,
    coord: Coord,
    capability: str,
    input: Any,
    *,
    at: datetime | None,
    delay_s: float | None,
    id: str | None = None,
    key: str | None = None,
    deadline: datetime | None = None,
    deadline_s: float | None = None,
    reuse_for_s: float | None = None,
    **options: Any,
) -> TaskHandle[Any]:
    """`Coord.submit` with `delay_s` or `at`."""
    due = due_at(at, delay_s)
    ends_at = None if deadline_s is None else due + arguments.seconds(deadline_s, "deadline_s")
    if deadline is not None:
        ends_at = arguments.moment(deadline, "deadline")
    if ends_at is not None and ends_at <= due:
        raise errors.InvalidPayload("the deadline passes before the task is submitted", at=due, deadline=ends_at)
    ask = await submitter.ask(capability, input, options | {"id": id, "key": key}, inline_bytes=INLINE_BYTES)
    ask = msgspec.structs.replace(ask, said=msgspec.structs.replace(ask.said, deadline=ends_at))
    await coord.pushes.open()
    await coord.queues.open(capability)
    timer_id, timer_key = ask.id, ask.key
    if reuse_for_s is not None:
        found, ask = await submitter.reusable(ask, reuse_for_s, named=id is not None or key is not None)
        if found is not None:
            return submitter.joined(ask, found.task, found.facts, reused=True)
        timer_id, timer_key = new_event_id(), ask.key
    elif id is not None:
        await coord.used_ids.refuse_task(ask.key, ask.id)
        facts = await facts_of(coord.connection, coord.tenant, ask.key, ask.id)
        task, _ = tasks.fold(facts)
        if task is not None:
            check_same(ask, task, facts)
            return submitter.joined(ask, task, facts)
    watch = coord.outcomes.watch(ask.key, ask.id)

    def instead(timer: Timer) -> bool:
        _check_free(ask, timer)
        return timer.setter == coord.agent  # the same work: now at another time, where it is one's own

    then = Then(submit=Submit(capability, ask.said, id=ask.id, key=ask.key, reuse_for_s=reuse_for_s))
    timer = await coord.timers.begin(timer_id, timer_key, TimerSet(at=due), then, instead)
    watch.reopen(foreign=timer.setter != coord.agent)
    delayed = Delayed(ask, timer_key, timer_id, reuse_for_s)
    return TaskHandle(coord, ask.key, ask.id, watch, ask.returns, delayed=delayed)


def _check_free(ask: Ask, timer: Timer) -> None:
    """Raise `TaskExists` where a timer that is set submits other work under this id, `TimerTaken` where it is none."""
    told = None if timer.said.then is None else timer.said.then.submit
    if told is None or not timer.once or (told.id or timer.id) != ask.id:
        raise errors.TimerTaken("a timer of this id is set, and it is another one", timer=timer.id, setter=timer.setter)
    if not same(ask, told.capability, told.task):
        raise errors.TaskExists(
            "a timer is to submit other work under this id", task=ask.id, key=ask.key, first_seq=timer.set_seq,
            submitter=timer.setter, capability=told.capability, status="waiting",
        )  # fmt: skip
