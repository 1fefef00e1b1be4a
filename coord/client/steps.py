"""Steps of a handler: parts of its work that are not done again when its task is.

::

    ctx.run("charge", charge, order)
        │ recorded under an earlier claim? ── yes ──▶ what it gave then
        │ no
        ▼
    charge(order) ──▶ recorded: a fact, stored ──▶ what it gave, as everybody after it will read it

The first execution of a task reads nothing: there was nobody before it.  Each later one reads the task's facts once, at
its first step.  A step is done again where its agent died, or was cut off, between doing it and the record: at
least once, as the task is, but a step and not all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from coord import errors, limits
from coord.client.event_ids import new_event_id
from coord.client.histories import facts_of
from coord.client.returning import kind_of
from coord.core.recorded import Record, recorded
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import arguments, codec
from coord.wire.records import Fact, StoredFact
from coord.wire.understood import RECORDS

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.encoding import Sequel
    from coord.client.stating import Statement

_log = logs.get("worker")

_AGAIN_S: Final = 0.05
_AGAIN_MOST_S: Final = 5.0


class _Made:
    """What a step has given in this execution, until that is stored: whoever asks again is not to be told otherwise."""

    __slots__ = ("body", "event_id", "record", "statement")

    def __init__(self, body: bytes, record: Record) -> None:
        self.body = body
        self.record = record
        self.event_id = new_event_id()
        self.statement: Statement | None = None
        """The newest of the record; what waited for it may have been cancelled."""


class Steps:
    """Of one execution; made at its first step."""

    __slots__ = (
        "_begun",
        "_claim",
        "_closed",
        "_coord",
        "_fact",
        "_made",
        "_names",
        "_reading",
        "_records",
        "_sequel",
        "_under_way",
    )

    def __init__(
        self, coord: Coord, fact: StoredFact, claim: int, sequel: Sequel | None = None, *, held: bool = False
    ) -> None:
        """`fact`: the submission; `sequel`: what `Stating.sequel` made of it, where somebody has it.

        `held`: the claim is not new, so that something may have been recorded under it.
        """
        self._coord = coord
        self._fact = fact
        self._claim = claim
        self._sequel = coord.stating.sequel(fact) if sequel is None else sequel
        self._records: dict[str, Record] | None = {} if claim == 1 and not held else None
        """By name, of those before; None: not read yet."""
        self._reading: asyncio.Lock | None = None
        self._names: set[str] = set()
        """Of the steps that run, or have given something."""
        self._made: dict[str, _Made] = {}
        """By name, what is not stored yet."""
        self._begun = 0
        """Steps of this execution that were not recorded before it."""
        self._under_way: set[Statement] = set()
        self._closed = False

    async def run(self, name: str, call: Callable[..., Any], given: tuple[Any, ...], returns: Any) -> Any:
        """See `TaskContext.run`."""
        self._take(name)
        try:
            records = self._records if self._records is not None else await self._read()
            kind = kind_of(call, returns)
            record = records.get(name)
            if record is not None:
                return await self._given(record, kind)
            made = self._made.get(name)
            if made is not None:
                value = decoded(made.body, kind)
            else:
                made, value = await self._do(name, call, given, kind, len(records))
            await self._record(made)
            del self._made[name]
            return value
        except BaseException:
            self._names.discard(name)  # the handler may try it again
            raise

    async def _do(
        self, name: str, call: Callable[..., Any], given: tuple[Any, ...], kind: Any, before: int
    ) -> tuple[_Made, Any]:
        if self._closed:
            raise asyncio.CancelledError  # since it was asked for
        if before + self._begun >= limits.STEPS_MAX:
            raise errors.StepRefused(f"a task has at most {limits.STEPS_MAX} steps", step=name)
        if not self._coord.understood.covers(RECORDS):
            # What it gives would be recorded for nobody: it would be done again.
            await self._coord.understood.demand(RECORDS, "steps of a handler")
        self._begun += 1
        try:
            began_at = clock.monotonic()
            body = encoded(await done(call, given))
            run_s = round(clock.monotonic() - began_at, 6)
            value = decoded(body, kind)
        except BaseException:
            self._begun -= 1
            raise
        record = Record(claim=self._claim, step=name, output=msgspec.Raw(body), run_s=run_s)
        made = self._made[name] = _Made(body, record)
        return made, value

    def _take(self, name: str) -> None:
        if type(name) is not str:
            arguments.is_a(name, str, "name", "text", errors.StepRefused)
        if not 0 < len(name) <= limits.STEP_NAME_CHARS_MAX:
            raise errors.StepRefused(f"a step has a name of 1 to {limits.STEP_NAME_CHARS_MAX} characters", step=name)
        if name in self._names:
            raise errors.StepRefused("this execution has run a step of this name", step=name)
        self._names.add(name)

    async def _given(self, record: Record, kind: Any) -> Any:
        if record.ref is None:
            return decoded(bytes(record.output), kind)
        return decoded(await self._coord.payloads.get(record.ref), kind)

    # --- what was recorded before ------------------------------------------------------------

    async def _read(self) -> dict[str, Record]:
        """Once, however many steps begin together; for as long as the handler may run."""
        if self._reading is None:
            self._reading = asyncio.Lock()
        async with self._reading:
            wait_s, looked = _AGAIN_S, 0
            while self._records is None:
                try:
                    facts = await facts_of(self._coord.connection, self._coord.tenant, self._fact.key, self._fact.id)
                except errors.CoordError as exc:
                    if not exc.retryable:
                        raise
                    _log.warning("worker.steps_not_read", task=self._fact.id, error=exc)
                else:
                    task, records = recorded(facts)
                    # What answers may lag: everything before this claim is there when the claim is.
                    if task is not None and task.claims >= self._claim:
                        self._records = records
                        break
                    looked += 1
                    if looked >= limits.STORED_LOOKS_MAX:
                        raise errors.UnknownTask(
                            "the log does not hold what this task's claims were", task=self._fact.id, key=self._fact.key
                        )
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _AGAIN_MOST_S)
        return self._records

    # --- recording ---------------------------------------------------------------------------

    async def _record(self, made: _Made, *, last: bool = False) -> None:
        """Return when it is stored: stated again, under the same id, for as long as the handler may run.

        `last`: the handler is over, and what is stated about its task next waits for this.
        """
        if made.statement is None and self._coord.allowance is not None:
            await self._coord.allowance.turn()
        wait_s = _AGAIN_S
        while True:
            try:
                if made.statement is None or made.statement.error is not None:
                    await self._state_now(made, last=last)
                await self._stored(made)
            except errors.CoordError as exc:
                if not exc.retryable:
                    raise
                _log.warning("worker.step_not_stored", task=self._fact.id, step=made.record.step, error=exc)
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _AGAIN_MOST_S)

    async def _state_now(self, made: _Made, *, last: bool) -> None:
        if made.record.ref is None and len(made.body) > limits.STEP_INLINE_BYTES:
            ref = await self._coord.payloads.put(made.body)
            made.record = msgspec.structs.replace(made.record, output=msgspec.Raw(b"null"), ref=ref)
        if self._coord.stating.is_full:
            await self._coord.stating.room()
        if self._closed and not last:
            raise asyncio.CancelledError  # the outcome is stated: nobody would believe it
        made.statement = self._state(made.record, made.event_id)
        self._under_way.add(made.statement)

    async def _stored(self, made: _Made) -> None:
        assert made.statement is not None, "stated just now, or before"
        try:
            await made.statement
        finally:
            if made.statement.done:  # else this was cancelled, and that is still on its way
                self._under_way.discard(made.statement)

    def _state(self, record: Record, event_id: str) -> Statement:
        stating, fact = self._coord.stating, self._fact
        if self._sequel is not None:
            return stating.follow(self._sequel, "recorded", record, event_id=event_id)
        return stating.send(
            Fact(kind="task", id=fact.id, key=fact.key, event="recorded", data=record, event_id=event_id)
        )

    def over(self) -> None:
        """The handler is: nothing more is recorded."""
        self._closed = True

    async def settled(self) -> None:
        """Return when what was given is stored, or will not be; to be called after `over`.

        A record that the broker did not take is stated again, for as long as it may: else whoever executes the task
        after this would do the step once more.
        """
        for made in list(self._made.values()):
            with contextlib.suppress(errors.CoordError):  # told to its step; the outcome is what counts
                await self._record(made, last=True)
        while self._under_way:
            statement = self._under_way.pop()
            with contextlib.suppress(errors.CoordError):
                await statement


async def unrecorded(call: Callable[..., Any], given: tuple[Any, ...], returns: Any) -> Any:
    """The same without a record, of the same type all the same."""
    kind = kind_of(call, returns)
    return decoded(encoded(await done(call, given)), kind)


async def done(call: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """What it gives; a coroutine function is awaited."""
    value = call(*given)
    # The first question is the second one's answer, as a rule, at a tenth of its cost.
    return await value if type(value) is CoroutineType or inspect.isawaitable(value) else value


def encoded(value: Any) -> bytes:
    """As JSON; `InvalidPayload` where it cannot be written."""
    return codec.encode(value, bytes_max=limits.TASK_OUTPUT_BYTES_MAX)


def decoded(body: bytes, kind: Any) -> Any:
    """As whoever executes the task after it will be given it: a difference would show in an emergency only.

    Raises `InvalidPayload` where it is not of that type.
    """
    return codec.decode_as(body, "json", None, kind)
