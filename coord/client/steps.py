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
import itertools
import typing
from collections.abc import Callable
from functools import lru_cache
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import msgspec
import msgspec.inspect

from coord import errors, limits
from coord.client.event_ids import new_event_id
from coord.client.histories import facts_of
from coord.core.recorded import Record, recorded
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import arguments, codec
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.encoding import Sequel
    from coord.client.stating import Statement

_log = logs.get("worker")

_AGAIN_S: Final = 0.05
_AGAIN_MOST_S: Final = 5.0

INFER: Final[Any] = object()
"""The type is what the function's annotation says."""


class Steps:
    """Of one execution; made at its first step."""

    __slots__ = (
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

    def __init__(self, coord: Coord, fact: StoredFact, claim: int, sequel: Sequel | None = None) -> None:
        """`fact`: the submission; `sequel`: what `Stating.sequel` made of it, where somebody has it."""
        self._coord = coord
        self._fact = fact
        self._claim = claim
        self._sequel = coord.stating.sequel(fact) if sequel is None else sequel
        self._records: dict[str, Record] | None = {} if claim == 1 else None
        """By name, of those before; None: not read yet."""
        self._reading: asyncio.Lock | None = None
        self._names: set[str] = set()
        """That this execution has come to."""
        self._made = 0
        """Steps that it has begun itself."""
        self._under_way: set[Statement] = set()
        self._closed = False

    async def run(self, name: str, call: Callable[..., Any], given: tuple[Any, ...], returns: Any) -> Any:
        """See `TaskContext.run`."""
        self._take(name)
        try:
            records = self._records if self._records is not None else await self._read()
            kind = _kind(call, returns)
            record = records.get(name)
            if record is not None:
                return await self._given(record, kind)
            if len(records) + self._made >= limits.STEPS_MAX:
                raise errors.StepRefused(f"a task has at most {limits.STEPS_MAX} steps", step=name)
            self._made += 1
            return await self._do(name, call, given, kind)
        except BaseException:
            self._names.discard(name)  # the handler may try it again
            raise

    async def _do(self, name: str, call: Callable[..., Any], given: tuple[Any, ...], kind: Any) -> Any:
        began_at = clock.monotonic()
        body = encoded(await done(call, given), kind)
        run_s = round(clock.monotonic() - began_at, 6)
        value = decoded(body, kind)
        if len(body) > limits.STEP_INLINE_BYTES:
            ref = await self._coord.payloads.put(body)
            record = Record(claim=self._claim, step=name, ref=ref, run_s=run_s)
        else:
            record = Record(claim=self._claim, step=name, output=msgspec.Raw(body), run_s=run_s)
        await self._record(record)
        return value

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

    async def _record(self, record: Record) -> None:
        """Return when it is stored: stated again, under the same id, for as long as the handler may run."""
        stating, allowance = self._coord.stating, self._coord.allowance
        if allowance is not None:
            await allowance.turn()
        event_id, wait_s = new_event_id(), _AGAIN_S
        for tried in itertools.count():
            if tried:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _AGAIN_MOST_S)
            try:
                if stating.is_full:
                    await stating.room()
                if self._closed:
                    raise asyncio.CancelledError  # the outcome is stated: nobody would believe it
                statement = self._state(record, event_id)
                self._under_way.add(statement)
                try:
                    await statement
                finally:
                    self._under_way.discard(statement)
            except errors.CoordError as exc:
                if not exc.retryable:
                    raise
                _log.warning("worker.step_not_stored", task=self._fact.id, step=record.step, error=exc)
            else:
                return

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
        """Return when what is on its way is stored, or will not be."""
        while self._under_way:
            statement = self._under_way.pop()
            with contextlib.suppress(errors.CoordError):  # told to its step; the outcome is what counts
                await statement


async def unrecorded(call: Callable[..., Any], given: tuple[Any, ...], returns: Any) -> Any:
    """The same without a record, of the same type all the same."""
    kind = _kind(call, returns)
    return decoded(encoded(await done(call, given), kind), kind)


async def done(call: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """What it gives; a coroutine function is awaited."""
    value = call(*given)
    # The first question is the second one's answer, as a rule, at a tenth of its cost.
    return await value if type(value) is CoroutineType or inspect.isawaitable(value) else value


def encoded(value: Any, kind: Any) -> bytes:
    """As JSON; `InvalidPayload` where it is not of that type, or none that can be written."""
    if kind is not Any and not (isinstance(kind, type) and isinstance(value, kind)):
        codec.convert(codec.to_builtins(value), kind)
    return codec.encode(value, bytes_max=limits.TASK_OUTPUT_BYTES_MAX)


def decoded(body: bytes, kind: Any) -> Any:
    """As whoever executes the task after it will be given it: a difference would show in an emergency only."""
    return codec.decode_as(body, "json", None, kind)


_kinds: Final[WeakKeyDictionary[Callable[..., Any], Any]] = WeakKeyDictionary()
"""Function → what `_kind` says of it; methods are made anew each time and found nowhere."""


def _kind(call: Callable[..., Any], returns: Any) -> Any:
    """The type of what it gives; raises `StepRefused` for one that could not be read again."""
    if returns is INFER:
        try:
            return _kinds[call]
        except (KeyError, TypeError):
            pass
    kind = returned_by(call) if returns is INFER else returns
    if not _is_readable(kind):
        raise errors.StepRefused("what a step gives has a type that JSON can be read as", type=str(kind))
    if returns is INFER:
        with contextlib.suppress(TypeError):  # not everything that can be called can be kept
            _kinds[call] = kind
    return kind


def _is_readable(kind: Any) -> bool:
    try:
        return _readable(kind)
    except TypeError:  # not to be remembered
        return _readable.__wrapped__(kind)


@lru_cache(maxsize=1024)
def _readable(kind: Any) -> bool:
    if kind is Any or hasattr(kind, "model_validate_json"):
        return True
    try:
        return not isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType)
    except TypeError:
        return False


def returned_by(call: Callable[..., Any]) -> Any:
    """The type that a function says it returns; Any where it says nothing.

    Raises `StepRefused` where what it says cannot be looked up.
    """
    plain = inspect.unwrap(getattr(call, "func", call))
    plain = getattr(plain, "__func__", plain)
    try:
        kind = typing.get_type_hints(plain).get("return", Any)
    except NameError as exc:
        raise errors.StepRefused("what a step returns cannot be looked up: say `returns=`", name=exc.name) from exc
    except (TypeError, AttributeError):
        kind = Any  # no function, and without annotations
    return type(None) if kind is None else kind
