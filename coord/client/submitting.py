"""Submitting tasks: each exists once under its id, however often and by whomever it is submitted.

A submission is stored on the condition that it is the first fact of its task.  Who comes second
reads what came first: the same work is the same task, other work is `TaskExists`.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import msgspec

from coord import errors, limits
from coord.bus.patched import Message
from coord.client.encoding import new_event_id
from coord.client.histories import facts_of, read
from coord.client.outcomes import TaskHandle, Watch, outcome_of
from coord.core import reuse
from coord.core.admission import ENTER, Board, Door, FailFast
from coord.wire import codec, subjects, work
from coord.wire.records import Fact

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.stating import Statement
    from coord.core.tasks import Task
    from coord.wire.records import StoredFact

_LOOKS_MAX: Final = 20
_LOOK_AGAIN_S: Final = 0.05
"""Who was refused as the second looks for the first so often: what answers may lag."""


class Ask(msgspec.Struct, frozen=True):
    """One submission, ready to be stated."""

    capability: str
    key: str
    id: str
    said: work.Submission
    raw: bytes
    """The input's JSON."""
    returns: Any

    @property
    def queue(self) -> str:
        """Of the capability's queues."""
        return work.PLACED if self.said.placement is not None else self.said.priority


class Submitter:
    """Of one connection."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord
        self._doors: dict[str, Door] = {}
        self._submitted: dict[str, Any] = {}
        """Counters, as the doors by capability."""
        self._boards: list[Any] = []
        self._news = asyncio.Event()
        self._shared: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        """Of work that may be reused: the newest task that is known here, by its key."""

    async def close(self) -> None:
        """Listen to no board any more."""
        for board in self._boards:
            await board.unsubscribe()

    async def submit(self, capability: str, input: Any = None, /, **options: Any) -> TaskHandle[Any]:
        """See `coord.client.connect.Coord.submit`."""
        reuse_for_s = options.pop("reuse_for_s", None)
        if reuse_for_s is not None:
            return await self._reuse(capability, input, reuse_for_s, options)
        ask = await self._ask(capability, input, **options)
        await self._ready(ask.capability, urgent=ask.said.priority == "critical")
        watch = self._coord.outcomes.watch(ask.key, ask.id)
        await self._coord.stating.room()
        return await self._stored(ask, watch, self._send(ask))

    async def submit_many(
        self, capability: str, inputs: Iterable[Any], ids: Iterable[str] | None, *, return_errors: bool, **options: Any
    ) -> list[Any]:
        """See `Coord.submit_many`."""
        urgent = options.get("priority") == "critical"
        await self._ready(capability, urgent=urgent)
        names = iter(ids) if ids is not None else None
        sent: list[tuple[Ask, Watch, Statement]] = []
        for value in inputs:
            given = options if names is None else options | {"id": next(names)}
            ask = await self._ask(capability, value, **given)
            await self._ready(capability, urgent=urgent)
            watch = self._coord.outcomes.watch(ask.key, ask.id)
            await self._coord.stating.room()
            sent.append((ask, watch, self._send(ask)))
        found: list[Any] = []
        first: errors.CoordError | None = None
        for ask, watch, statement in sent:
            try:
                found.append(await self._stored(ask, watch, statement))
            except errors.CoordError as exc:
                first = first or exc
                found.append(exc)
        if first is not None and not return_errors:
            raise first
        return found

    def handle(self, id: str, key: str | None, returns: Any) -> TaskHandle[Any]:
        """Of a task that somebody submitted."""
        key = id if key is None else key
        watch = self._coord.outcomes.watch(key, id, foreign=True)
        return TaskHandle(self._coord, key, id, watch, returns)

    # --- one submission ------------------------------------------------------------------

    async def _ask(
        self,
        capability: str,
        input: Any,
        *,
        id: str | None = None,
        key: str | None = None,
        deadline_s: float | None = None,
        deadline: datetime | None = None,
        returns: Any = Any,
        **said: Any,
    ) -> Ask:
        raw = codec.encode(input, bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        if len(raw) > limits.TASK_INLINE_BYTES:
            said["ref"] = await self._coord.payloads.put(raw)
        elif input is not None:
            said["input"] = msgspec.Raw(raw)
        if deadline is not None:
            said["deadline"] = deadline.timestamp()
        elif deadline_s is not None:
            said["deadline"] = time.time() + deadline_s
        said = {name: value for name, value in said.items() if value is not None}
        try:
            submission = work.check(work.Submission(instance=self._coord.instance, **said))
        except TypeError as exc:
            raise errors.InvalidPayload(f"not an option of a task: {exc}") from exc
        work.submission_detail(capability, submission.priority)
        name = new_event_id() if id is None else id
        return Ask(capability, name if key is None else key, name, submission, raw, returns)

    def _send(self, ask: Ask) -> Statement:
        fact = Fact(
            kind="task", id=ask.id, key=ask.key, event="submitted", detail=(ask.capability, ask.queue), data=ask.said
        )
        statement = self._coord.stating.send(fact, once="entity")
        self._doors[ask.capability].entered()
        self._submitted[ask.capability].inc()
        return statement

    async def _stored(self, ask: Ask, watch: Watch, statement: Statement) -> TaskHandle[Any]:
        try:
            await statement
        except errors.WrongLastSequence as refused:
            self._join(watch, *await self._first(ask, refused))
        return TaskHandle(self._coord, ask.key, ask.id, watch, ask.returns)

    async def _first(self, ask: Ask, refused: errors.WrongLastSequence) -> tuple[Task, list[StoredFact]]:
        """The task that was there before, if it is the same work; `TaskExists` if not."""
        for _ in range(_LOOKS_MAX):
            task, facts = await read(self._coord.connection, self._coord.tenant, ask.key, ask.id)
            if task is not None:
                if _same(ask, task):
                    return task, facts
                raise errors.TaskExists(
                    task=ask.id, key=ask.key, first_event_id=task.event_id, first_seq=facts[0].seq,
                    submitter=task.submitter, capability=task.capability, status=task.status,
                ) from refused  # fmt: skip
            if facts:
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
        raise errors.TaskExists(
            "something that is no submission is stored under this id", task=ask.id, key=ask.key
        ) from refused

    # --- reuse -----------------------------------------------------------------------------

    async def _reuse(self, capability: str, input: Any, reuse_for_s: float, options: dict[str, Any]) -> TaskHandle[Any]:
        """Join identical work, or begin it; see `coord.core.reuse`."""
        if options.get("id") is not None or options.get("key") is not None or reuse_for_s < 0:
            raise errors.InvalidPayload("reuse gives a task its id and key, and takes a time of at least 0")
        ask = await self._ask(capability, input, **options)
        key = reuse.key_of(capability, ask.raw)
        watch = self._shared.get(key)
        if watch is not None and watch.outcome is None:
            return TaskHandle(self._coord, key, watch.id, watch, ask.returns, reused=True)
        urgent = ask.said.priority == "critical"
        said = msgspec.structs.replace(ask.said, reuse_key=key)
        generation = 1
        for _ in range(_LOOKS_MAX):
            await self._ready(capability, urgent=urgent)
            name = reuse.name_of(key, generation)
            watch = self._coord.outcomes.watch(key, name)
            self._shared[key] = watch
            try:
                await self._send(msgspec.structs.replace(ask, key=key, id=name, said=said))
            except errors.WrongLastSequence:
                found = reuse.newest(key, await facts_of(self._coord.connection, self._coord.tenant, key))
            else:
                return TaskHandle(self._coord, key, name, watch, ask.returns)
            if found is None or found.generation < generation:
                await asyncio.sleep(_LOOK_AGAIN_S)  # who answers lags behind who refused
            elif reuse.joinable(found.task, reuse_for_s=reuse_for_s, now=time.time()):
                watch = self._shared[key] = self._coord.outcomes.watch(key, found.task.id)
                self._join(watch, found.task, found.facts)
                return TaskHandle(self._coord, key, found.task.id, watch, ask.returns, reused=True)
            else:
                generation = found.generation + 1
        raise errors.Overloaded("others begin this work all the time", capability=capability, key=key)

    def _join(self, watch: Watch, task: Task, facts: list[StoredFact]) -> None:
        """Be told of a task that was there before."""
        # Whoever submitted it is told of it; where that is another instance, the log is watched here.
        if task.submitter != self._coord.agent or task.submission.instance != self._coord.instance:
            watch.foreign = True
        outcome = outcome_of(facts)
        if outcome is not None:
            watch.hear(outcome=outcome)

    # --- admission -----------------------------------------------------------------------

    async def _ready(self, capability: str, *, urgent: bool) -> None:
        """The capability's queues exist, its board is listened to, and one more may enter."""
        if capability not in self._doors:
            board = subjects.board(self._coord.tenant, capability)  # refuses what is no token
            await self._coord.pushes.open()
            await self._coord.queues.open(capability)
            door = self._doors.setdefault(capability, Door())
            self._submitted[capability] = self._coord.metrics.task_submitted.labels(capability)

            def heard(message: Message) -> None:
                self._heard(door, message.data)

            self._boards.append(await self._coord.connection.subscribe(board, heard))
        door = self._doors[capability]
        if door.ask(time.monotonic(), urgent=urgent) is not ENTER:
            await self._enter(capability, door, urgent=urgent)

    async def _enter(self, capability: str, door: Door, *, urgent: bool) -> None:
        """Wait until there is room; raises `Overloaded`, or `CircuitOpen` at once."""
        ends_at = time.monotonic() + limits.SUBMIT_WAIT_S
        while True:
            now = time.monotonic()
            verdict = door.ask(now, urgent=urgent)
            if isinstance(verdict, FailFast):
                raise errors.CircuitOpen(
                    "tasks of this capability fail", circuit=capability, retry_after_s=verdict.retry_after_s
                )
            if verdict is ENTER:
                return
            if now >= ends_at:
                retry_after_s = getattr(verdict, "retry_after_s", 1.0)
                raise errors.Overloaded(
                    "too many tasks of this capability wait", capability=capability, retry_after_s=retry_after_s
                )
            self._news.clear()
            try:
                async with asyncio.timeout(ends_at - now):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _heard(self, door: Door, body: bytes) -> None:
        try:
            board = msgspec.json.decode(body, type=Board)
        except msgspec.MsgspecError:
            return
        door.hear(board, time.monotonic())
        self._news.set()


def _same(ask: Ask, task: Task) -> bool:
    """Whether a submission asks for the work that a task is."""
    there = task.submission
    if (ask.capability, ask.said.priority) != (task.capability, there.priority):
        return False
    if there.ref is not None or ask.said.ref is not None:
        return there.ref is not None and ask.said.ref is not None and there.ref.digest == ask.said.ref.digest
    return bool(msgspec.json.decode(ask.raw) == there.input)
