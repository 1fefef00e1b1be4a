"""The handle of a submitted task: its outcome, its progress, its end.

A push is at most once.  Whoever waits for an outcome therefore also reads the log: after two
seconds, then ever more rarely, at once after a reconnect, and, where somebody else submitted the
task and is told instead, whenever the live log shows a fact of it.

A task that a timer submits has a handle before it is there: its timer says what there is to say, and can be
cancelled instead (`coord.client.delayed`).
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from coord import errors, limits
from coord.bus.patched import Message
from coord.client.asks import Delayed, check_same
from coord.client.histories import facts_of, read
from coord.client.outcomes import Outcome, Progress, Watch, outcome_of
from coord.core import reuse, tasks, timers
from coord.core.tasks import Task
from coord.core.timers import Timer
from coord.runtime import clock
from coord.wire import codec, subjects, work
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.bus.connection import Subscription
    from coord.client.connect import Coord

T = TypeVar("T")

_OWN_S: Final = 0.25
"""Whose an outcome is that is known already is asked for so long, whatever the timeout."""


class TaskHandle(Generic[T]):
    """A submitted task.  Keep it for as long as you want to be told of its outcome."""

    __slots__ = (
        "__weakref__",
        "_coord",
        "_delayed",
        "_ends_at",
        "_given_up",
        "_old",
        "_returns",
        "_watch",
        "id",
        "key",
        "reused",
    )

    def __init__(
        self, coord: Coord, key: str, id: str, watch: Watch, returns: Any, *, reused: bool = False,
        delayed: Delayed | None = None, ends_at: float | None = None,
    ) -> None:  # fmt: skip
        """`delayed`: a timer is to submit it; until the task of that work is seen.

        `ends_at`: Unix seconds; who has joined the task waits no longer.
        """
        self._delayed = delayed
        self._ends_at = ends_at
        self._given_up: Outcome | None = None
        """What its own timer's cancellation came to, where others may submit the same task: theirs goes on."""
        self._old = watch.outcome is not None
        """Its outcome was known before it was asked for: the task may have been submitted again since."""
        self.reused = reused
        """Whether the work was begun, or done, before it was asked for here."""
        self._coord = coord
        self.key = key
        self.id = id
        self._watch = watch
        self._returns = returns

    def __repr__(self) -> str:
        return f"TaskHandle({self.id!r})"

    @property
    def done(self) -> bool:
        """Whether its outcome is known here."""
        return self._known is not None

    @property
    def _known(self) -> Outcome | None:
        outcome = self._watch.outcome
        if self._is_shared and outcome is not None and outcome.status not in reuse.ANSWERS:
            outcome = None  # of others, before its time: what it is itself is decided then
        return self._given_up if outcome is None and self._delayed is not None else outcome

    @property
    def _is_shared(self) -> bool:
        """Whether it shares its work, and its time has not come yet, as far as is known here."""
        return self._delayed is not None and self._delayed.reuse_for_s is not None

    async def result(self, timeout_s: float | None = None) -> T:
        """Wait for the outcome: the handler's output, as the type that was given as `returns`.

        Raises `TaskFailed`, `TaskRejected`, `TaskCancelled`, `TaskExpired`, or `DeadlineExceeded` after
        `timeout_s` (None: for as long as it takes; where it was joined (`reused`) until the deadline that was given
        with that).  The task goes on whatever happens here.  Of a delayed task also `TaskExists`: other work took
        its id before its time came.
        """
        if self._ends_at is not None:
            left_s = max(0.0, self._ends_at - clock.unix())
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        began = clock.monotonic()
        if self._is_shared and (self._known is None or self._known is self._given_up):
            try:
                async with asyncio.timeout(timeout_s):
                    await self._decided()
            except TimeoutError as exc:
                raise errors.DeadlineExceeded("the task has no outcome yet", task=self.id, timeout_s=timeout_s) from exc
            decided_at = clock.monotonic()
            timeout_s = None if timeout_s is None else max(0.0, timeout_s - (decided_at - began))
            began = decided_at
        watch = self._watch
        if self._old and (known := self._known) is not None and known.status != "completed":
            await self._look_again(timeout_s)
        wait_s = limits.RESULT_AUDIT_FIRST_S
        if self._known is None and not (watch.foreign or watch.suspicious):
            # Nearly all are told of theirs in this time.
            await watch.changed(wait_s if timeout_s is None else min(wait_s, timeout_s))
        outcome = self._known
        if outcome is None:
            waited_s = clock.monotonic() - began
            try:
                async with asyncio.timeout(None if timeout_s is None else timeout_s - waited_s):
                    outcome = await self._outcome(waited_s)
            except TimeoutError as exc:
                raise errors.DeadlineExceeded("the task has no outcome yet", task=self.id, timeout_s=timeout_s) from exc
        if self._delayed is not None:
            check_s = None if timeout_s is None else max(_OWN_S, timeout_s - (clock.monotonic() - began))
            try:
                async with asyncio.timeout(check_s):
                    await self._is_own()
            except TimeoutError as exc:
                said = "the log does not say whether the outcome is the one of this work"
                raise errors.DeadlineExceeded(said, task=self.id, timeout_s=timeout_s) from exc
        if outcome.status != "completed":
            self._old = True
            raise _error(self.id, outcome)
        raw = bytes(outcome.output)
        if outcome.ref is not None:
            raw = await self._coord.payloads.get(outcome.ref)
        result: T = codec.decode_as(raw, "json", None, self._returns)
        return result

    async def progress(self) -> AsyncIterator[Progress]:
        """What the handler says of how far it is, newest first where it says more than is taken; ends with the task.

        Told at once where the task was submitted with ``progress=True``, else as the live log shows it.
        """
        live = await self._live()
        try:
            last: Progress | None = None
            while True:
                progress, seen = self._watch.progress, self._watch.seen
                if progress is not None and progress != last:
                    last = progress
                    yield progress
                if self.done:
                    return
                if seen == self._watch.seen and not await self._watch.changed(limits.RESULT_AUDIT_FIRST_S):
                    await self._audit()
        finally:
            await live.unsubscribe()

    async def cancel(self, reason: str = "") -> bool:
        """Cancel it: whoever runs it is stopped at its next await.  False: it has ended, or is another agent's.

        Only the submitter may; raises what stating a fact raises, and `DeadlineExceeded` where a delayed task is just
        being submitted, or the log does not show yet which was first: ask again.
        """
        if self._is_shared and await self._look() is None:
            return await self._cancel_timer(reason)
        task, _ = await self._read()
        if task is None:
            if await self._cancel_timer(reason):
                return True
            task = await self._fired()
        if task is None or task.ended or task.submitter != self._coord.agent:
            return False
        said = work.Ended(reason=reason)
        stored = await self._coord.stating.state(
            Fact(kind="task", id=self.id, key=self.key, event="cancelled", data=said)
        )
        # An outcome may have been first after all.
        for _ in range(limits.STORED_LOOKS_MAX):  # what answers may lag behind what was just stored
            _, facts = await read(self._coord.connection, self._coord.tenant, self.key, self.id)
            if any(fact.seq >= stored.seq for fact in facts):
                return all(fact.seq != stored.seq for fact, _ in tasks.fold(facts)[1])
            await asyncio.sleep(limits.STORED_LOOK_AGAIN_S)
        raise errors.DeadlineExceeded("the log does not show what was just stored", task=self.id)

    async def status(self) -> Task:
        """The task as the log has it now; raises `UnknownTask`, and what asking the service raises.

        One that a timer is still to submit is ``waiting``, with the time as `retry_at`.  Of a delayed task also
        `TaskExists`: other work took its id.
        """
        if self._is_shared:
            await self._look()
        task, _ = (None, []) if self._is_shared else await self._read()
        if task is None:
            timer = await self._timer()
            task = None if timer is None else timers.to_be(timer, self.key, self.id)
        if task is None:
            raise errors.UnknownTask(task=self.id, key=self.key)
        return task

    # --- before its time -----------------------------------------------------------------

    async def _read(self) -> tuple[Task | None, list[StoredFact]]:
        """The task and its facts; of a delayed one raises `TaskExists` where it is other work."""
        task, facts = await read(self._coord.connection, self._coord.tenant, self.key, self.id)
        if task is not None and self._delayed is not None and (not self._is_shared or self._known is not None):
            check_same(self._delayed.ask, task, facts)
            self._delayed = None
        return task, facts

    async def _decided(self) -> None:
        """Return when it is known which task shared work is, or that its timer was cancelled."""
        delayed = self._delayed
        assert delayed is not None, "of shared work"
        heard = asyncio.Event()

        def on_live(message: Message) -> None:
            if ".progress" not in message.subject:
                heard.set()

        coord = self._coord
        places = ((delayed.timer_key, "timer", delayed.timer_id), (self.key, "task", self.id))
        filters = [subjects.stored_to_live(subjects.entity_filter(coord.tenant, *place)) for place in places]
        wakes = [await coord.connection.subscribe(live, on_live) for live in filters]
        wait_s = limits.RESULT_AUDIT_FIRST_S
        try:
            while self._delayed is not None:  # else another one who waits, or asks, was told first
                try:
                    if await self._look() is not None or self._given_up is not None:
                        return
                except errors.CoordError as exc:
                    if not exc.retryable:
                        raise
                try:
                    async with asyncio.timeout(wait_s):
                        await heard.wait()
                    wait_s = limits.STORED_LOOK_AGAIN_S  # what follows is stored a little later
                    heard.clear()
                except TimeoutError:
                    wait_s = min(2 * wait_s, limits.RESULT_AUDIT_MAX_S)
        finally:
            for wake in wakes:
                await wake.unsubscribe()

    async def _look(self) -> Task | None:
        """The task that shared work is, which this is from then on; None: it is not decided, or was cancelled."""
        delayed = self._delayed
        assert delayed is not None, "of shared work"
        assert delayed.reuse_for_s is not None, "of shared work"
        timer = await self._timer()
        found = reuse.newest(self.key, await facts_of(self._coord.connection, self._coord.tenant, self.key))
        if found is not None:
            task = found.task
            if timer is not None and timer.status == "fired" and timer.fired_at is not None:
                decided = reuse.answers(task, reuse_for_s=delayed.reuse_for_s, at=timer.fired_at)
            else:  # an answer need not be waited for
                decided = task.ended and reuse.joinable(task, reuse_for_s=delayed.reuse_for_s, now=clock.unix())
            if decided:
                self._become(task, found.facts)
                return task
        if timer is not None and timer.status == "cancelled":
            self._ended_before(Outcome("cancelled", error="cancelled", message=timer.reason or None))
        return None

    def _become(self, task: Task, facts: list[StoredFact]) -> None:
        delayed, self._delayed, self._given_up = self._delayed, None, None
        self.id = task.id
        watch = self._watch = self._coord.outcomes.watch(self.key, task.id)
        foreign = task.submitter != self._coord.agent or task.submission.instance != self._coord.instance
        if foreign and delayed is not None:
            self._ends_at = delayed.ask.said.deadline
        outcome = outcome_of(facts)
        if outcome is None:
            watch.reopen(foreign=foreign)
        else:
            watch.foreign = watch.foreign or foreign
            watch.hear(outcome=outcome)

    async def _is_own(self) -> None:
        """Return when the log has said that the task is of this work, or is not there; raises `TaskExists`."""
        while self._delayed is not None:
            try:
                await self._read()
            except errors.CoordError as exc:
                if not exc.retryable:
                    raise
                await asyncio.sleep(limits.RESULT_AUDIT_FIRST_S / 4)
            else:
                return

    async def _timer(self) -> Timer | None:
        """The one that submits it, as the log has it."""
        delayed = self._delayed
        key, name = (self.key, self.id) if delayed is None else (delayed.timer_key, delayed.timer_id)
        return await self._coord.timers.get(name, key=key)

    async def _cancel_timer(self, reason: str) -> bool:
        """Whether the timer was to submit it, and does not any more; raises `UnknownTask` where there is none."""
        timer = await self._timer()
        if timer is None or timers.to_be(timer, self.key, self.id) is None:
            raise errors.UnknownTask(task=self.id, key=self.key)
        if timer.setter != self._coord.agent:
            return False
        if not await self._coord.timers.cancel(timer.id, key=timer.key, reason=reason):
            return False
        self._ended_before(Outcome("cancelled", error="cancelled", message=reason or None))
        return True

    def _ended_before(self, outcome: Outcome) -> None:
        """Its timer does not submit it any more."""
        delayed = self._delayed
        if delayed is None or delayed.timer_id == self.id:
            self._watch.hear(outcome=outcome)
            self._watch.unbegun = True
            return
        # Others ask for the same work (reuse), each by a timer of his own: it is only nothing of this one's.
        new, self._given_up = self._given_up is None, outcome
        if new:
            self._watch.hear()

    async def _fired(self) -> Task | None:
        """The task whose timer has fired; it may not be there yet, `DeadlineExceeded` where it does not come."""
        timer = await self._timer()
        if timer is None or timer.status != "fired":
            return None
        for _ in range(limits.STORED_LOOKS_MAX):
            task, _ = await self._read()
            if task is not None:
                return task
            await asyncio.sleep(limits.STORED_LOOK_AGAIN_S)
        raise errors.DeadlineExceeded("its timer has fired, and the log does not show the task", task=self.id)

    # --- waiting -------------------------------------------------------------------------

    async def _outcome(self, waited_s: float) -> Outcome:
        """`waited_s`: so long nothing was heard already."""
        watch = self._watch
        watches_log = watch.foreign and watch.outcome is None
        live = await self._live() if watches_log else None
        try:
            wait_s = max(0.0, limits.RESULT_AUDIT_FIRST_S - waited_s)
            if watches_log or watch.suspicious:
                watch.suspicious = False
                await self._audit()
            while True:
                outcome = self._known
                if outcome is not None:
                    return outcome
                heard = await watch.changed(wait_s)
                if (watch.suspicious or not heard) and self._known is None:
                    # Where very many wait, each has its turn: they look again about when they are told they may.
                    if not watch.foreign and not self._coord.outcomes.may_audit():
                        wait_s = random.uniform(limits.RESULT_AUDIT_FIRST_S, limits.RESULT_AUDIT_MAX_S) / 4
                        continue
                    watch.suspicious = False
                    await self._audit()
                wait_s = min(limits.RESULT_AUDIT_MAX_S, max(2 * wait_s, limits.RESULT_AUDIT_FIRST_S))
                if heard:
                    wait_s = limits.RESULT_AUDIT_FIRST_S
        finally:
            if live is not None:
                await live.unsubscribe()

    async def _live(self) -> Subscription:
        """Wake whoever waits at each fact of the task."""
        fact_filter = subjects.entity_filter(self._coord.tenant, self.key, "task", self.id)
        live_filter = subjects.stored_to_live(fact_filter)
        return await self._coord.connection.subscribe(live_filter, self._on_live)

    def _on_live(self, message: Message) -> None:
        if ".progress" in message.subject:
            try:
                said = msgspec.json.decode(message.data, type=work.Progress)
            except msgspec.MsgspecError:
                return  # a frame: the next one, or the outcome, says more
            self._watch.hear(progress=Progress(said.done, said.note, said.claim))
        else:
            self._watch.hear()

    async def _look_again(self, timeout_s: float | None) -> None:
        """Whether an outcome that is known still holds; where nobody says so soon, it does."""
        wait_s = limits.RESULT_AUDIT_FIRST_S
        try:
            async with asyncio.timeout(wait_s if timeout_s is None else min(wait_s, timeout_s)):
                await asyncio.sleep(self._coord.outcomes.audit_in_s(wait_s))
                await self._audit()
        except errors.TaskExists:
            raise
        except (TimeoutError, errors.CoordError):
            return

    async def _audit(self) -> None:
        """Read the log; what cannot be read now is read the next time."""
        try:
            task, facts = await self._read()
            timer = await self._timer() if task is None else None
        except errors.CoordError as exc:
            if not exc.retryable:
                raise
            return
        if timer is not None:
            task = timers.to_be(timer, self.key, self.id)
        if task is None:
            return  # what is known holds: it may have left the log
        if timer is not None and task.ended:
            self._ended_before(Outcome(task.status, error=task.error, message=task.message))
            return
        outcome = outcome_of(facts)
        if outcome is not None:
            self._watch.hear(outcome=outcome)
        elif self._watch.outcome is not None and (task.redrives or self._watch.unbegun):
            # Without either the log lags behind what was told.
            self._watch.reopen(foreign=task.submission.instance != self._coord.instance)


_ERRORS: Final[dict[str, type[errors.TaskError]]] = {
    "failed": errors.TaskFailed,
    "rejected": errors.TaskRejected,
    "cancelled": errors.TaskCancelled,
    "expired": errors.TaskExpired,
}


def _error(id: str, outcome: Outcome) -> errors.TaskError:
    kind = _ERRORS[outcome.status]
    return kind(outcome.message or None, task=id, error=outcome.error)
