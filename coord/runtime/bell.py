"""Waiting for one of several things without a task for each.

``asyncio.wait`` over an event, a future and a timeout makes a task for the event and takes some 30 µs.
A loop that does so for every few messages pays more for waiting than for them; this takes 5.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Bell:
    """Anybody rings it; one coroutine at a time waits for it."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Let whoever waits go on; or the next one, unless it is silenced first."""
        self._rung = True
        self._release()

    def silence(self) -> None:
        """Forget that it was rung."""
        self._rung = False

    async def wait(self, timeout_s: float, *unless: asyncio.Future[Any]) -> None:
        """Return when it is rung, one of `unless` is done, or after `timeout_s`; silences nothing."""
        if self._rung or any(other.done() for other in unless):
            return
        assert self._waiter is None, "one waits at a time"
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self._release)
        for other in unless:
            other.add_done_callback(self._release)
        try:
            await self._waiter
        finally:
            self._waiter = None
            timer.cancel()
            for other in unless:
                other.remove_done_callback(self._release)

    def _release(self, _: Any = None) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
