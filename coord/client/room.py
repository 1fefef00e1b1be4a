"""Waiting for room in the outbox: first come first served, bounded, cancellation-safe.

A caller that waits gets its room accounted before it is woken (`hand_out`), so that nobody
can take it in between.  One that goes away in the same moment, cancelled or out of time,
gives it back to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from coord import errors
from coord.core.outbox import Outbox


class _Waiter:
    """A caller that waits for `count` entries of `size` bytes; once `granted`, they are reserved."""

    __slots__ = ("count", "granted", "size")

    def __init__(self, count: int, size: int, granted: asyncio.Future[None]) -> None:
        self.count = count
        self.size = size
        self.granted = granted


class Room:
    """Who waits for an outbox's lanes."""

    def __init__(
        self, outbox: Outbox[Any], *, wait_s: Mapping[int, float], wait_at_most_s: float, freed: Callable[[], None]
    ) -> None:
        """`wait_s`: lane → how long its callers wait, where not `wait_at_most_s`; `freed`: call when room came back."""
        self._outbox = outbox
        self._wait_s = [wait_s.get(lane.number, wait_at_most_s) for lane in outbox.lanes]
        self._wait_at_most_s = wait_at_most_s
        self._freed = freed
        self._waiting: tuple[deque[_Waiter], ...] = tuple(deque() for _ in outbox.lanes)
        self._moved: list[asyncio.Future[None] | None] = [None for _ in outbox.lanes]
        self._closed = False

    async def wait(self, lane: int, count: int, size: int) -> None:
        """Return once `count` entries of `size` bytes are reserved.  `Overloaded`, `BusClosed`."""
        waiter = _Waiter(count, size, asyncio.get_running_loop().create_future())
        waiting = self._waiting[lane]
        waiting.append(waiter)
        try:
            async with asyncio.timeout(self._wait_s[lane]):
                await waiter.granted
        except BaseException as exc:
            if _was_granted(waiter):
                self._outbox.unreserve(lane, count, size)
                self._freed()
            else:
                with contextlib.suppress(ValueError):
                    waiting.remove(waiter)
            if isinstance(exc, TimeoutError):
                raise self._overloaded(lane, f"the queue stayed full for {self._wait_s[lane]:g} s") from exc
            raise
        if self._closed:
            self._outbox.unreserve(lane, count, size)
            raise errors.BusClosed

    async def way_clear(self, lane: int) -> None:
        """Return once a lane is not crowded: for those who would rather wait than have samples shed.

        Returns at once when closed; raises `Overloaded` when nothing moves for as long as
        anything is tried.
        """
        while self._outbox.crowded(lane) and not self._closed:
            self._outbox.end_lingers(lane)
            self._freed()  # sends what it can
            if not self._outbox.crowded(lane):
                return
            moved = self._moved[lane]
            if moved is None:
                moved = self._moved[lane] = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(self._wait_at_most_s):
                    await asyncio.shield(moved)
            except TimeoutError as exc:
                name = self._outbox.lanes[lane].name
                raise self._overloaded(lane, f"the broker took no {name} for {self._wait_at_most_s:g} s") from exc

    def hand_out(self) -> None:
        """Give free room to those who wait for it; call after anything left the outbox."""
        for lane, waiting in enumerate(self._waiting):
            while waiting:
                waiter = waiting[0]
                if not waiter.granted.done():  # else: it went away and has not run yet
                    if not self._outbox.reserve(lane, waiter.count, waiter.size):
                        break
                    waiter.granted.set_result(None)
                waiting.popleft()
        for lane, moved in enumerate(self._moved):
            if moved is not None and not self._outbox.crowded(lane):
                moved.set_result(None)
                self._moved[lane] = None

    def close(self) -> None:
        """Nobody gets room any more: whoever waits gets `BusClosed`."""
        self._closed = True
        for waiting in self._waiting:
            for waiter in waiting:
                if not waiter.granted.done():
                    waiter.granted.set_exception(errors.BusClosed())
            waiting.clear()
        for lane, moved in enumerate(self._moved):
            if moved is not None:
                moved.set_result(None)
                self._moved[lane] = None

    def _overloaded(self, lane: int, why: str) -> errors.Overloaded:
        state = self._outbox.lanes[lane]
        return errors.Overloaded(
            why,
            retry_after_s=self._outbox.retry_after_s(lane),
            service_class=state.name,
            queued=state.queue.count,
            connected=not self._outbox.held,
        )


def _was_granted(waiter: _Waiter) -> bool:
    granted = waiter.granted
    return granted.done() and not granted.cancelled() and granted.exception() is None
