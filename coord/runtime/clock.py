"""Time as an argument: the system's clock, and one that only moves when told.

Whatever waits or looks at the time takes a `Clock`, so that a test can move an hour in a
millisecond and a simulation can order what happens.  Durations are seconds of `monotonic`;
points in time that leave the process are `now` (aware, UTC).

What measures by itself calls `clock.monotonic()` and `clock.unix()`, through the module and at
the moment: so a loop with virtual time (`coord.testing.virtual`) can be the clock of all that runs on it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

monotonic: Callable[[], float] = time.monotonic
"""Seconds since some moment; never goes back."""

unix: Callable[[], float] = time.time
"""Seconds since 1970."""


@contextmanager
def replaced(by_monotonic: Callable[[], float], by_unix: Callable[[], float]) -> Iterator[None]:
    """Let other clocks be this process's for a while; for one thread that runs one loop."""
    global monotonic, unix
    before = monotonic, unix
    monotonic, unix = by_monotonic, by_unix
    try:
        yield
    finally:
        monotonic, unix = before


def utc_now() -> datetime:
    """`unix`, aware, in UTC."""
    return datetime.fromtimestamp(unix(), UTC)


def until_moment(now: float, every_s: float) -> float:
    """Seconds until the next of the moments that are `every_s` (> 0) apart: who waits for it wakes up with others."""
    return every_s - now % every_s


def in_step(every_s: float) -> float:
    """Seconds until the next moment of the loop's clock in which whoever looks so often does: one wake-up for all.

    Whoever woke up an eighth too early, or has just begun, waits for the moment after it.
    """
    now = asyncio.get_running_loop().time()
    return ((now + every_s / 8) // every_s + 1) * every_s - now


class Clock(Protocol):
    """What coord asks of a clock."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; 0 or less lets others run once."""


class SystemClock:
    """The machine's clocks and the event loop's timers."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Seconds of the system's monotonic clock."""
        return monotonic()

    def now(self) -> datetime:
        """The system's wall clock, aware, in UTC."""
        return utc_now()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(max(0.0, seconds))


class ManualClock:
    """A clock for tests: stands still until `advance`."""

    def __init__(self, start: datetime | None = None) -> None:
        """`start`: the wall clock's first value; default 2026-01-01 UTC."""
        self._start = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._slept = asyncio.Event()

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed

    def now(self) -> datetime:
        """The start plus what was advanced."""
        return self._start + timedelta(seconds=self._elapsed)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been advanced by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        self._slept.set()
        await future

    def advance(self, seconds: float) -> None:
        """Move on and wake, in order, whoever's time has come."""
        assert seconds >= 0
        self._move_to(self._elapsed + seconds)

    def advance_to_next(self) -> float:
        """Move on to the moment the next sleeper wakes; returns the seconds passed."""
        waiting = [at for at, _, future in self._sleepers if not future.done()]
        before = self._elapsed
        self._move_to(min(waiting))
        return self._elapsed - before

    def _move_to(self, elapsed: float) -> None:
        self._elapsed = elapsed
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def until_asleep(self, sleepers: int = 1) -> None:
        """Return once at least so many are sleeping: the signal a test waits for before it advances."""
        while sum(not future.done() for _, _, future in self._sleepers) < sleepers:
            self._slept.clear()
            await self._slept.wait()

    @property
    def next_wake_s(self) -> float | None:
        """Seconds until the next sleeper wakes; None when nobody sleeps."""
        waiting = [at for at, _, future in self._sleepers if not future.done()]
        return min(waiting) - self._elapsed if waiting else None
