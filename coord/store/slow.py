"""Statements that take long: logged with their name and plan, so that whoever is called knows what to look at.

A pool's connections are `Timed`; a statement over the bound is counted at once, and its plan asked for beside the
work, on another connection of the pool::

    slow statement ──▶ counted ──▶ of this name not lately? ──▶ EXPLAIN with its own parameters ──▶ one line of the log

EXPLAIN runs nothing, and shows how PostgreSQL would run it now with these values.  Where no plan is to be had (a
DO, a database that is busy), the line says so.  Bounded: one EXPLAIN at a time, a few that wait, each name once in
`limits.SLOW_SAY_EVERY_S`, with how many there were in between.

What begins and ends transactions is counted and not logged: a COMMIT is slow because of the disk, or of what went
before it, and the line could say neither.

Not timed: COPY, which is as long as its batch is large, and cursors, which wait for their readers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import re
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

import asyncpg
import msgspec

from coord import errors, limits
from coord.runtime import clock
from coord.store.sqlstate import driver_errors
from coord.telemetry import logs
from coord.telemetry import metrics as telemetry

Run = TypeVar("Run", bound=Callable[..., Any])

_log = logs.get("store.slow")

_PLANNED: Final = frozenset({"SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES"})
_BRACKETS: Final = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"})
"""What asyncpg's transactions run."""

_WORD: Final = re.compile(r"(?:\s|--[^\n]*\n)*([A-Za-z]+)")
_NAMES: Final[dict[str, str]] = {}
"""Statement → its name."""

_LINE_CHARS: Final = 300
"""Of a plan: an index condition may have an array of thousands of ids."""


def _timed(run: Run) -> Run:
    """A method that runs a statement, timed for `Timed.heard`."""

    @functools.wraps(run)
    async def timed(self: Timed, query: str, *args: Any, **options: Any) -> Any:
        started = clock.monotonic()
        error: BaseException | None = None
        try:
            return await run(self, query, *args, **options)
        except BaseException as exc:
            error = exc
            raise
        finally:
            elapsed_s = clock.monotonic() - started
            if elapsed_s > self.over_s:
                self.heard(query, args, elapsed_s, error)

    return cast("Run", timed)


class Timed(asyncpg.Connection):
    """A connection that tells `heard` of statements that took longer than `over_s`.

    A tenth of what asyncpg's own query loggers cost, which are a callback of the loop for each statement.
    """

    __slots__ = ("heard", "over_s")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.over_s = math.inf
        self.heard: Callable[[str, tuple[Any, ...], float, BaseException | None], None] = _nobody

    execute = _timed(asyncpg.Connection.execute)
    fetch = _timed(asyncpg.Connection.fetch)
    fetchval = _timed(asyncpg.Connection.fetchval)
    fetchrow = _timed(asyncpg.Connection.fetchrow)


def _nobody(*_: object) -> None:
    """Nobody asked to be told."""


class _Slow(msgspec.Struct, frozen=True):
    name: str
    sql: str
    args: tuple[Any, ...]
    elapsed_s: float
    error: str | None
    others: int
    """Of this name that were slow since it was said last, this one not counted."""


class _Heard(msgspec.Struct):
    said_at: float
    since: int = 0
    """Slow ones that were not said."""


class SlowQueries:
    """Of one pool."""

    def __init__(
        self,
        over_ms: float,
        explain: Callable[[str, tuple[Any, ...]], Awaitable[list[str]]],
        *,
        metrics: telemetry.Metrics,
    ) -> None:
        """`over_ms`: what takes longer is slow, 0: nothing is; `explain`: the lines of a statement's plan."""
        self._over_s = over_ms / 1000
        self._explain = explain
        self._counter = metrics.db_slow_queries
        self._heard: OrderedDict[str, _Heard] = OrderedDict()
        self._waiting: deque[_Slow] = deque()
        self._saying: asyncio.Task[None] | None = None

    def listen(self, conn: asyncpg.Connection[asyncpg.Record]) -> None:
        """Time the statements of a connection, a `Timed` one."""
        if self._over_s and isinstance(conn, Timed):
            conn.over_s, conn.heard = self._over_s, self.heard

    def heard(self, sql: str, args: tuple[Any, ...], elapsed_s: float, error: BaseException | None) -> None:
        """A statement took longer than the bound."""
        name = name_of(sql)
        if name == "EXPLAIN":
            return
        self._counter.labels(statement=name).inc()
        if name in _BRACKETS:
            return
        now = clock.monotonic()
        known = self._heard.get(name)
        if known is not None and now < known.said_at + limits.SLOW_SAY_EVERY_S:
            known.since += 1
            return
        if len(self._waiting) >= limits.SLOW_WAITING_MAX:
            if known is not None:
                known.since += 1
            return
        others = 0 if known is None else known.since
        self._heard[name] = _Heard(now)
        self._heard.move_to_end(name)
        while len(self._heard) > limits.SLOW_NAMES_MAX:
            self._heard.popitem(last=False)
        failed = None if error is None else type(error).__name__
        some = tuple(_short(value) for value in args)
        self._waiting.append(_Slow(name, sql, some, elapsed_s, failed, others))
        if self._saying is None:
            self._saying = asyncio.create_task(self._say_all(), name="slow-queries")

    async def close(self) -> None:
        """Say no more.  Twice is legal."""
        saying, self._saying = self._saying, None
        self._waiting.clear()
        if saying is not None:
            saying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saying

    async def _say_all(self) -> None:
        try:
            while self._waiting:
                await self._say(self._waiting.popleft())
        finally:
            self._saying = None

    async def _say(self, slow: _Slow) -> None:
        plan: list[str] = []
        missing: str | None = None
        if _word(slow.sql) not in _PLANNED:
            missing = "it has none"
        else:
            try:
                async with asyncio.timeout(limits.SLOW_EXPLAIN_S):
                    plan = await self._explain(slow.sql, slow.args)
            except driver_errors(errors.CoordError) as exc:
                missing = str(exc) or "no answer in time"
        _log.warning(
            "statement.slow",
            statement=slow.name,
            ms=round(slow.elapsed_s * 1000, 1),
            over_ms=round(self._over_s * 1000, 1),
            others=slow.others,
            failed=slow.error,
            plan=_cut(plan) or None,
            no_plan=missing,
        )


async def explain(conn: asyncpg.Connection[asyncpg.Record], sql: str, args: tuple[Any, ...]) -> list[str]:
    """The lines of a statement's plan with these parameters; nothing is run."""
    return [row[0] for row in await conn.fetch(f"EXPLAIN {sql}", *args)]


def name_of(sql: str) -> str:
    """What a statement is called: by `called`, or its first word."""
    return _NAMES.get(sql) or _word(sql) or "?"


def called(sql: str, name: str) -> str:
    """Remember the name of a statement that may be run soon, for the log; the statement."""
    if len(_NAMES) < limits.SLOW_NAMES_MAX:
        _NAMES[sql] = name
    return sql


def _word(sql: str) -> str:
    found = _WORD.match(sql)
    return found[1].upper() if found else ""


def _short(value: Any) -> Any:
    """A parameter to plan with: of an array of thousands a few show as much, and hold less."""
    return value[: limits.SLOW_ARGUMENTS_MAX] if isinstance(value, (list, tuple)) else value


def _cut(plan: list[str]) -> str:
    lines = [line if len(line) <= _LINE_CHARS else f"{line[: _LINE_CHARS - 1]}…" for line in plan]
    return "\n".join(lines)[: limits.SLOW_PLAN_CHARS]
