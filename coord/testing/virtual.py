"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing is left to do.

::

    with virtual.Runner() as runner:
        runner.run(main())  # hours of `asyncio.sleep` in milliseconds

Everything that waits on the loop waits in virtual time: `asyncio.sleep`, `asyncio.timeout`, `call_later`; so do the
clocks of `coord.runtime.clock`, by which all of coord measures.  While code runs, time stands still.

Two things keep time real: a call in a thread (`asyncio.to_thread`), and a socket, pipe or file that
something waits for.  As long as there is one the clock goes as the machine's does, so a
handler may call the real world, and a timeout around it means what it says.

``time.time()`` and ``datetime.now()`` of other people's code are not replaced: ask `loop.time()`, or coord's clock.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final, Self, TypeVar

from coord.runtime import clock

T = TypeVar("T")


_TURN_S: Final = 1e-6
"""What a turn of the loop takes in which a timer fires."""


class Stuck(RuntimeError):
    """Nothing is left to do, no timer will ever fire, and something still waits: it would wait for ever."""


class _Selector(selectors.BaseSelector):
    """The real one, and instead of waiting a jump."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.jump: Callable[[float | None], bool] = lambda _: False
        """Told how long it would wait; whether time has passed instead."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            self.jump(0.0)
            return self._real.select(0)
        found = self._real.select(0)
        if found or self.jump(timeout):
            return found
        return self._real.select(timeout)


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module.  Its time begins at 0 and is `unix` seconds since 1970 at the same moment."""

    def __init__(self, begins: datetime | None = None) -> None:
        """`begins`: what time it is at the beginning (aware); default: what time it is."""
        self._selecting = _Selector()
        super().__init__(self._selecting)
        self._selecting.jump = self._jump
        # What is due within a microsecond is due now: wide enough for the rounding of decades.
        self._clock_resolution = _TURN_S
        self._begins = time.time() if begins is None else begins.timestamp()
        self._elapsed = 0.0
        self._in_threads = 0
        self._files = len(self._selecting.get_map())
        """The loop's own, by which threads wake it."""
        self._real_since: float | None = None

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        if self._real_since is not None:
            now = time.monotonic()
            self._elapsed += now - self._real_since
            self._real_since = now
        return self._elapsed

    def unix(self) -> float:
        """Seconds since 1970, virtual too."""
        return self._begins + self.time()

    def leap(self, seconds: float) -> None:
        """Move the wall clock alone, as it has moved when a machine was suspended: timers notice nothing."""
        self._begins += seconds

    def now(self) -> datetime:
        """`unix`, aware, in UTC."""
        return datetime.fromtimestamp(self.unix(), UTC)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """As ever; time is real until it is done."""
        done: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        done.add_done_callback(self._thread_done)
        self._see_what_is_real()
        return done

    async def shutdown_default_executor(self, *args: Any) -> None:
        """As ever: it waits for a thread."""
        self._in_threads += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._in_threads -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._in_threads -= 1
        self._see_what_is_real()

    def _see_what_is_real(self) -> None:
        real = self._in_threads > 0 or len(self._selecting.get_map()) > self._files
        if not real:
            self.time()
            self._real_since = None
        elif self._real_since is None:
            self._real_since = time.monotonic()

    def _jump(self, wait_s: float | None) -> bool:
        self._see_what_is_real()
        if self._real_since is not None:
            return False
        if wait_s == 0:
            # Whoever waits for what is already due, or for less than a float can tell, gets on all the same.
            timers = self._scheduled  # type: ignore[attr-defined]  # a heap
            if timers and timers[0].when() <= self._elapsed + _TURN_S:
                self._elapsed += _TURN_S
            return True
        if wait_s is None:
            raise Stuck("nothing is left to do, no timer is set, and the program still waits")
        self._elapsed += wait_s
        return True


class Runner(AbstractContextManager["Runner"]):
    """Runs coroutines one after the other on one virtual loop, with coord's clocks on it."""

    def __init__(self, begins: datetime | None = None) -> None:
        self._runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(begins))

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._runner.close()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Its result."""
        return self._runner.run(main)


def run(main: Coroutine[Any, Any, T], *, begins: datetime | None = None) -> T:
    """`asyncio.run`, in virtual time."""
    with Runner(begins) as runner:
        return runner.run(main)


def clocks() -> AbstractContextManager[None]:
    """Let coord measure by the running loop where that is a virtual one; otherwise as ever."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        return clock.replaced(loop.time, loop.unix)
    return clock.replaced(clock.monotonic, clock.unix)
