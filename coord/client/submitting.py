"""Submitting tasks: each exists once under its id, however often and by whomever it is submitted.

A submission is stored on the condition that it is the first fact of its task.  Who comes second
reads what came first: the same work is the same task, other work is `TaskExists`.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sized
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.patched import Message
from coord.client.asks import PAYLOAD, Ask, check_same, task_of
from coord.client.event_ids import new_event_id
from coord.client.histories import facts_of, read
from coord.client.outcomes import Watch, outcome_of
from coord.client.task_handle import TaskHandle
from coord.client.used import task_exists
from coord.core import placement as placing
from coord.core import reuse
from coord.core.admission import ENTER, Board, Door, FailFast
from coord.runtime import clock
from coord.runtime.sharing import shared
from coord.wire import arguments, codec, subjects, work
from coord.wire.records import Fact

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.stating import Statement
    from coord.core.tasks import Task
    from coord.wire.records import StoredFact
    from coord.wire.used import Used

_BURST: Final = 64
_COUNT_S: Final = 0.5
"""How long what is counted may be unknown to the metrics."""
_USUAL: Final = PAYLOAD | {"priority"}
"""With nothing else there is nothing to be checked."""
_ALONE: Final = frozenset({"reuse_for_s", "at", "delay_s"})
"""With one of these a submission begins with a question."""
_GENERATIONS: Final = 64
"""Of reused work that are asked about at a time."""
_UNEVEN: Final = "there are not as many ids as inputs"
_MISSING: Final = object()


class Submitter:
    """Of one connection."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord
        self._doors: dict[str, Door] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._submitted: dict[str, int] = {}
        """Since the metrics were told; as the doors, by capability."""
        self._counting: asyncio.TimerHandle | None = None
        self._boards: list[Any] = []
        self._news = asyncio.Event()
        self._shared: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        """Of work that may be reused: the newest task that is known here, by its key."""
        self._beginning: dict[str, Statement] = {}
        """And those that are not stored yet."""

    async def close(self) -> None:
        """Listen to no board any more."""
        if self._counting is not None:
            self._counting.cancel()
            self._count()
        openings = list(self._opening.values())
        for opening in openings:
            opening.cancel()
        await asyncio.gather(*openings, return_exceptions=True)
        for board in self._boards:
            await board.unsubscribe()

    async def submit(self, capability: str, input: Any = None, /, **options: Any) -> TaskHandle[Any]:
        """See `Coord.submit`."""
        reuse_for_s = options.pop("reuse_for_s", None)
        if reuse_for_s is not None:
            return await self._reuse(capability, input, reuse_for_s, options)
        # Each of these may have to wait; nearly none does, and a coroutine that does not wait costs like one that does.
        coord = self._coord
        raw = codec.encode(input, bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        large = await coord.payloads.put(raw) if len(raw) > limits.TASK_INLINE_BYTES else None
        ask = self._ask(capability, input, raw, large, **options)
        if options.get("id") is not None and not coord.used_ids.knows_all(ask.key, ask.id):
            await coord.used_ids.refuse_task(ask.key, ask.id)
        door, urgent = self._doors.get(capability), ask.said.priority == "critical"
        if door is None or coord.stating.is_full or door.ask(clock.monotonic(), urgent=urgent) is not ENTER:
            await self._room(capability, urgent=urgent)
        watch = coord.outcomes.watch(ask.key, ask.id)
        statement = self._send(ask)
        try:
            await statement
        except errors.WrongLastSequence as refused:
            await self._second(ask, watch, refused)
        return TaskHandle(coord, ask.key, ask.id, watch, ask.returns)

    async def submit_many(
        self, capability: str, inputs: Iterable[Any], ids: Iterable[str] | None, *, return_errors: bool, **options: Any
    ) -> list[Any]:
        """See `Coord.submit_many`."""
        given_ids: object = ids
        if isinstance(inputs, Sized) and isinstance(given_ids, Sized) and len(inputs) != len(given_ids):
            raise errors.InvalidPayload(_UNEVEN, inputs=len(inputs), ids=len(given_ids))
        if options.get("id") is not None:
            raise errors.InvalidPayload("not an option of many tasks: id; ids names each")
        options = {name: value for name, value in options.items() if value is not None}
        if _ALONE & options.keys():
            found = await self._each(capability, inputs, ids, options)
            first = next((one for one in found if isinstance(one, errors.CoordError)), None)
            if first is not None and not return_errors:
                raise first
            return found
        urgent = options.get("priority") == "critical"
        await self._ready(capability, urgent=urgent)
        sent: list[tuple[Ask, Watch, Statement] | errors.CoordError] = []
        closed: errors.CoordError | None = None
        async for value, given, refused in self._named(inputs, ids, options):
            if (reason := refused or closed) is not None:
                sent.append(reason)
                continue
            try:
                ask = await self.ask(capability, value, given)
                await self._room(capability, urgent=urgent)
                watch, statement = self._coord.outcomes.watch(ask.key, ask.id), self._send(ask)
            except (errors.Overloaded, errors.CircuitOpen) as exc:
                closed = exc  # the others would wait as long for the same answer
                sent.append(exc)
                continue
            except errors.CoordError as exc:
                sent.append(exc)
                continue
            sent.append((ask, watch, statement))
            if len(sent) % _BURST == 0:
                await asyncio.sleep(0)  # let others of this process have their turn, and the broker have these
        found = []
        first = None
        for one in sent:
            try:
                if isinstance(one, errors.CoordError):
                    raise one
                found.append(await self._stored(*one))
            except errors.CoordError as exc:
                first = first or exc
                found.append(exc)
        if first is not None and not return_errors:
            raise first
        return found

    async def _each(
        self, capability: str, inputs: Iterable[Any], ids: Iterable[str] | None, options: dict[str, Any]
    ) -> list[Any]:
        """What cannot be pipelined, `_BURST` at a time: handles, and errors where they would stand."""
        pairs: Iterator[tuple[Any, Any]] = ((value, None) for value in inputs)
        if ids is not None:
            pairs = itertools.zip_longest(inputs, ids, fillvalue=_MISSING)
        found: list[Any] = []
        while burst := list(itertools.islice(pairs, _BURST)):
            whole = [(value, name) for value, name in burst if value is not _MISSING and name is not _MISSING]
            try:
                asked = [self._coord.submit(capability, value, id=name, **options) for value, name in whole]
            except TypeError as exc:
                raise errors.InvalidPayload(f"not an option of a task: {exc}") from exc
            for one in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(one, BaseException) and not isinstance(one, errors.CoordError):
                    raise one
                found.append(one)
            if len(whole) < len(burst):
                return [*found, errors.InvalidPayload(_UNEVEN)]
            if isinstance(found[-1], errors.Overloaded | errors.CircuitOpen):
                # The others would wait as long for the same answer.
                return found + [found[-1] for _ in pairs]
        return found

    async def _named(
        self, inputs: Iterable[Any], ids: Iterable[str] | None, options: dict[str, Any]
    ) -> AsyncIterator[tuple[Any, dict[str, Any], errors.CoordError | None]]:
        """Each input with its options, and why its id is refused; hundreds of ids a question.

        What cannot be asked refuses those it was asked for, and the rest too where asking again would only take
        as long for the same answer: what was submitted before is still to be settled by the caller.
        """
        if ids is None:
            for value in inputs:
                yield value, options, None
            return
        key = options.get("key")
        pairs: Iterator[tuple[Any, Any]] = itertools.zip_longest(inputs, ids, fillvalue=_MISSING)
        closed: errors.CoordError | None = None
        while burst := list(itertools.islice(pairs, limits.USED_IDS_MAX)):
            named = [pair for pair in burst if pair[0] is not _MISSING and pair[1] is not _MISSING]
            idents = [(name if key is None else key, name) for _, name in named]
            used: dict[tuple[str, str], Used] = {}
            refused = closed
            if refused is None:
                try:
                    used = await self._coord.used_ids.firsts("task", idents)
                except errors.CoordError as exc:
                    refused = exc
                    closed = exc if exc.retryable else None
            for (value, name), ident in zip(named, idents, strict=True):
                first = used.get(ident)
                yield value, options | {"id": name}, refused if first is None else task_exists(first)
            if len(named) < len(burst):
                yield None, options, errors.InvalidPayload(_UNEVEN)
                return

    def handle(self, id: str, key: str | None, returns: Any) -> TaskHandle[Any]:
        """Of a task that somebody submitted."""
        key = id if key is None else key
        watch = self._coord.outcomes.watch(key, id, foreign=True)
        return TaskHandle(self._coord, key, id, watch, returns)

    # --- one submission ------------------------------------------------------------------

    async def ask(
        self, capability: str, input: Any, options: dict[str, Any], *, inline_bytes: int = limits.TASK_INLINE_BYTES
    ) -> Ask:
        """A submission of an input that may be large; raises `InvalidPayload` for options that it cannot have."""
        raw = codec.encode(input, bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        large = await self._coord.payloads.put(raw) if len(raw) > inline_bytes else None
        return self._ask(capability, input, raw, large, **options)

    def _ask(
        self,
        capability: str,
        input: Any,
        raw: bytes,
        large: work.Reference | None,
        *,
        id: str | None = None,
        key: str | None = None,
        deadline_s: float | None = None,
        deadline: datetime | None = None,
        returns: Any = Any,
        **said: Any,
    ) -> Ask:
        if large is not None:
            said["ref"] = large
        elif input is not None:
            said["input"] = msgspec.Raw(raw)
        if deadline is not None:
            said["deadline"] = arguments.moment(deadline, "deadline")
        elif deadline_s is not None:
            said["deadline"] = clock.unix() + arguments.seconds(deadline_s, "deadline_s")
        said = {name: value for name, value in said.items() if value is not None}
        if "placement" in said:
            said["placement"] = placing.data_of(said["placement"])
        if said.get("priority", "normal") not in work.PRIORITIES or not said.keys() <= _USUAL:
            submission = task_of(said, self._coord.instance)
        else:
            submission = work.Submission(instance=self._coord.instance, together=True, **said)
        if capability not in self._doors or submission.priority not in work.QUEUES:
            work.submission_detail(capability, submission.priority)
        name = new_event_id() if id is None else id
        return Ask(capability, name if key is None else key, name, submission, raw, returns, "priority" in said)

    def _send(self, ask: Ask, *, once: bool = True) -> Statement:
        fact = Fact(
            kind="task", id=ask.id, key=ask.key, event="submitted", detail=(ask.capability, ask.queue), data=ask.said
        )
        statement = self._coord.stating.send(fact, once="entity" if once else None)
        self._doors[ask.capability].entered()
        self._submitted[ask.capability] += 1
        if self._counting is None:
            self._counting = asyncio.get_running_loop().call_later(_COUNT_S, self._count)
        return statement

    def _count(self) -> None:
        """Tell the metrics; a counter's lock for each task would cost as much as its id."""
        self._counting = None
        for capability, count in self._submitted.items():
            if count:
                self._submitted[capability] = 0
                self._coord.metrics.task_submitted.labels(capability).inc(count)

    async def _stored(self, ask: Ask, watch: Watch, statement: Statement) -> TaskHandle[Any]:
        try:
            await statement
        except errors.WrongLastSequence as refused:
            await self._second(ask, watch, refused)
        return TaskHandle(self._coord, ask.key, ask.id, watch, ask.returns)

    async def _second(self, ask: Ask, watch: Watch, refused: errors.WrongLastSequence) -> None:
        """Be told of what came first, if it is the same work."""
        found = await self._first(ask, refused)
        if found is None:
            # What is there is nobody's task: facts that no reader believes.  The log decides who is first.
            stored = await self._send(ask, once=False)
            found = await self._first(ask, refused, stored.seq)
        if found is None:
            raise errors.UnknownTask(
                "the submission is stored, and cannot be read back", task=ask.id, key=ask.key
            ) from refused
        self._join(watch, *found)

    async def _first(
        self, ask: Ask, refused: errors.WrongLastSequence, seq: int = 0
    ) -> tuple[Task, list[StoredFact]] | None:
        """The task that was there before, if it is the same work; `TaskExists` if not.  None: there is no task.

        `seq`: something is known to be there up to it.
        """
        for _ in range(limits.STORED_LOOKS_MAX):
            task, facts = await read(self._coord.connection, self._coord.tenant, ask.key, ask.id)
            if task is not None:
                try:
                    check_same(ask, task, facts)
                except errors.TaskExists as exc:
                    raise exc from refused
                return task, facts
            if facts and facts[-1].seq >= seq:
                break
            await asyncio.sleep(limits.STORED_LOOK_AGAIN_S)
        return None

    # --- reuse -----------------------------------------------------------------------------

    async def _reuse(self, capability: str, input: Any, reuse_for_s: float, options: dict[str, Any]) -> TaskHandle[Any]:
        """Join identical work, or begin it; see `coord.core.reuse`."""
        _check_reuse(reuse_for_s, named=options.get("id") is not None or options.get("key") is not None)
        ask = await self.ask(capability, input, options)
        key = reuse.key_of(capability, ask.raw)
        watch = self._shared.get(key)
        if watch is not None and watch.outcome is None and await self._runs(key, watch):
            return TaskHandle(self._coord, key, watch.id, watch, ask.returns, reused=True, ends_at=ask.said.deadline)
        urgent = ask.said.priority == "critical"
        said = msgspec.structs.replace(ask.said, reuse_key=key)
        generation = 1 if await self._coord.used_ids.whole() else await self._generation(key)
        for _ in range(limits.STORED_LOOKS_MAX):
            await self._room(capability, urgent=urgent)
            name = reuse.name_of(key, generation)
            watch = self._coord.outcomes.watch(key, name)
            one = msgspec.structs.replace(ask, key=key, id=name, said=said)
            try:
                await self._begin(one, watch)
            except errors.WrongLastSequence as refused:
                facts = await facts_of(self._coord.connection, self._coord.tenant, key)
                found = reuse.newest(key, facts)
                if (found is None or found.generation < generation) and any(fact.id == name for fact in facts):
                    await self._second(one, watch, refused)  # facts that no reader believes
                    return TaskHandle(self._coord, key, name, watch, ask.returns, reused=watch.foreign)
            else:
                return TaskHandle(self._coord, key, name, watch, ask.returns)
            if found is None or found.generation < generation:
                await asyncio.sleep(limits.STORED_LOOK_AGAIN_S)  # who answers lags behind who refused
            elif reuse.joinable(found.task, reuse_for_s=reuse_for_s, now=clock.unix()):
                watch = self._shared[key] = self._coord.outcomes.watch(key, found.task.id)
                self._join(watch, found.task, found.facts)
                return TaskHandle(
                    self._coord, key, found.task.id, watch, ask.returns, reused=True, ends_at=ask.said.deadline
                )
            else:
                generation = found.generation + 1
        raise errors.Overloaded("others begin this work all the time", capability=capability, key=key)

    async def _begin(self, ask: Ask, watch: Watch) -> None:
        """Submit work that others here may join."""
        self._shared[ask.key], statement = watch, self._send(ask)
        self._beginning[ask.key] = statement
        stored = False
        try:
            await statement
            stored = True
        finally:
            if self._beginning.get(ask.key) is statement:
                del self._beginning[ask.key]
            if not stored and self._shared.get(ask.key) is watch:
                del self._shared[ask.key]

    async def _runs(self, key: str, watch: Watch) -> bool:
        """Whether work may be joined without asking the log: it is stored, and its end would have been told here."""
        statement = self._beginning.get(key)
        if statement is not None:
            try:
                await statement
            except errors.CoordError:
                return False
        return watch.outcome is None and not (watch.foreign or watch.suspicious)

    async def _generation(self, key: str) -> int:
        """The newest generation that the log has; without any, the first that was never begun."""
        found = reuse.newest(key, await facts_of(self._coord.connection, self._coord.tenant, key))
        if found is not None:
            return found.generation
        first = 1
        used: dict[tuple[str, str], Used] = {}
        for first in itertools.count(1, _GENERATIONS):
            idents = [(key, reuse.name_of(key, n)) for n in range(first, first + _GENERATIONS)]
            used = await self._coord.used_ids.firsts("task", idents)
            if idents[-1] not in used:
                break
        return max((reuse.generation_of(key, one.id) for one in used.values()), default=first - 1) + 1

    async def reusable(self, ask: Ask, reuse_for_s: float, *, named: bool) -> tuple[reuse.Newest | None, Ask]:
        """Identical work that was done and answers now (None: there is none), and the submission under its next id."""
        _check_reuse(reuse_for_s, named=named)
        key = reuse.key_of(ask.capability, ask.raw)
        found = reuse.newest(key, await facts_of(self._coord.connection, self._coord.tenant, key))
        if found is None:
            generation = 1 if await self._coord.used_ids.whole() else await self._generation(key)
        else:
            generation = found.generation
            if not reuse.joinable(found.task, reuse_for_s=reuse_for_s, now=clock.unix()):
                found, generation = None, generation + 1
            elif not found.task.ended:
                found = None  # it may fail before the time comes
        said = msgspec.structs.replace(ask.said, reuse_key=key)
        return found, msgspec.structs.replace(ask, key=key, id=reuse.name_of(key, generation), said=said)

    def joined(self, ask: Ask, task: Task, facts: list[StoredFact], *, reused: bool = False) -> TaskHandle[Any]:
        """The handle of a task that was there before."""
        watch = self._coord.outcomes.watch(ask.key, ask.id)
        self._join(watch, task, facts)
        ends_at = ask.said.deadline if reused else None
        return TaskHandle(self._coord, ask.key, ask.id, watch, ask.returns, reused=reused, ends_at=ends_at)

    def _join(self, watch: Watch, task: Task, facts: list[StoredFact]) -> None:
        """Be told of a task that was there before."""
        # Whoever submitted it is told of it; where that is another instance, the log is watched here.
        foreign = task.submitter != self._coord.agent or task.submission.instance != self._coord.instance
        outcome = outcome_of(facts)
        if outcome is not None:
            watch.foreign = watch.foreign or foreign
            watch.hear(outcome=outcome)
        else:
            watch.reopen(foreign=foreign)

    # --- admission -----------------------------------------------------------------------

    async def enter(self, capability: str, *, urgent: bool = False) -> None:
        """Return when one more task of a capability may be submitted by whoever states that himself.

        Raises `Overloaded`, `CircuitOpen`, and what opening its queues raises.
        """
        await self._ready(capability, urgent=urgent)
        self._doors[capability].entered()

    async def _room(self, capability: str, *, urgent: bool) -> None:
        """One more may enter, and may be sent: nothing is to be awaited between this and that.

        Who had to wait for room asks at the door again: it counts who was sent, and others wait as well.
        """
        await self._ready(capability, urgent=urgent)
        while self._coord.stating.is_full:
            await self._coord.stating.room()
            await self._ready(capability, urgent=urgent)

    async def _ready(self, capability: str, *, urgent: bool) -> None:
        """The capability's queues exist, its board is listened to, and one more may enter."""
        if capability not in self._doors:
            # Once, for however many are submitted before it is done.
            opening = self._opening.get(capability)
            if opening is None:
                opening = asyncio.get_running_loop().create_task(self._open(capability), name="open-capability")
                self._opening[capability] = opening
                opening.add_done_callback(lambda done: self._opened(capability, done))
            await shared(opening)
        door = self._doors[capability]
        if door.ask(clock.monotonic(), urgent=urgent) is not ENTER:
            await self._enter(capability, door, urgent=urgent)

    async def _open(self, capability: str) -> None:
        board = subjects.board(self._coord.tenant, capability)  # refuses what is no token
        await self._coord.pushes.open()
        door = Door()

        def heard(message: Message) -> None:
            self._heard(door, message.data)

        listening = await self._coord.connection.subscribe(board, heard)
        asked = asyncio.create_task(self._first_board(capability, door), name="first-board")
        try:
            await self._coord.queues.open(capability)
            await asked
        except BaseException:
            await listening.unsubscribe()  # whoever asks again listens anew
            raise
        finally:
            asked.cancel()
        self._boards.append(listening)
        self._submitted[capability] = 0
        self._doors[capability] = door

    async def _first_board(self, capability: str, door: Door) -> None:
        """Hear the board once before it is said again: a connection that has just begun knows of a circuit, too."""
        conn, service = self._coord.connection, subjects.rpc(self._coord.tenant, "agents", "capabilities")
        asked, wait_s = {"capability": capability}, limits.BOARD_EVERY_S
        try:
            said = await rpc.call(conn, service, asked, dict[str, Board], content="json", timeout_s=wait_s)
        except errors.CoordError:
            return  # who answers nothing holds nobody up
        if not door.has_heard and capability in said:
            door.hear(said[capability], clock.monotonic())

    def _opened(self, capability: str, done: asyncio.Task[None]) -> None:
        del self._opening[capability]
        if not done.cancelled():
            done.exception()  # whoever asked may have left

    async def _enter(self, capability: str, door: Door, *, urgent: bool) -> None:
        """Wait until there is room; raises `Overloaded`, or `CircuitOpen` at once."""
        ends_at = clock.monotonic() + limits.SUBMIT_WAIT_S
        while True:
            now = clock.monotonic()
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
        door.hear(board, clock.monotonic())
        self._news.set()


def _check_reuse(reuse_for_s: float, *, named: bool) -> None:
    arguments.seconds(reuse_for_s, "reuse_for_s")
    if named:
        raise errors.InvalidPayload("reuse gives a task its id and key")
