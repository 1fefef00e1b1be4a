"""Many waits that may last too long, and one timer for all of them.

``asyncio.timeout`` costs a timer of the event loop, set and cancelled, for each wait: more than all
else about a wait that ends as it should.  Whoever has thousands of them under way at a time, and can
do with a bound that is kept to within a quarter of a second, waits here.
"""

from __future__ import annotations

import asyncio
from typing import Final

_FINE_S: Final = 1.0
"""Shorter waits have a timer of their own, and end on time."""

_LOOK_S: Final = 0.25
"""How often it is looked whose time is over."""


class Alarms:
    """Of one event loop.  Nothing to close: the timer stops when nobody waits."""

    def __init__(self) -> None:
        self._due: dict[asyncio.Future[bool], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def future(self) -> asyncio.Future[bool]:
        """A future of the loop that runs, to wait for: to be told which one that is takes a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.create_future()

    def __len__(self) -> int:
        """How many waits share the timer now."""
        return len(self._due)

    async def wait(self, future: asyncio.Future[bool], timeout_s: float | None) -> bool:
        """The result of a future that nobody else waits for; False once `timeout_s` (None: never) is over."""
        if timeout_s is None:
            return await future
        loop = future.get_loop()
        if timeout_s < _FINE_S:
            timer = loop.call_later(max(0.0, timeout_s), _ring, future)
            try:
                return await future
            finally:
                timer.cancel()
        self._due[future] = loop.time() + timeout_s
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_S, self._look, loop)
        try:
            return await future
        finally:
            del self._due[future]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for future in [future for future, due in self._due.items() if due <= now]:
            _ring(future)
        self._timer = loop.call_later(_LOOK_S, self._look, loop) if self._due else None


def _ring(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
