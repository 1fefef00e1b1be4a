"""Questions that wait for a connection: `coord.core.fairness` decides whose turn it is, here it is waited for.

What is recalled is cancelled, which ends it in the database, too, and done again when its turn comes: it only reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from coord import errors, limits
from coord.core.fairness import Places, Turn, Until
from coord.telemetry.metrics import Metrics

T = TypeVar("T")


class Queueing:
    """See the module.  Of one event loop."""

    def __init__(self, places: int, metrics: Metrics) -> None:
        """`places`: what is done at a time."""
        self.places: Final = Places(
            places, quick_s=limits.QUERY_QUICK_S, wait_s=limits.QUERY_WAIT_S, waiting_max=limits.QUERY_WAITING
        )
        self._told: dict[Turn, asyncio.Future[None]] = {}
        """Of those that wait."""
        self._working: dict[Turn, asyncio.Task[Any]] = {}
        self._look: asyncio.TimerHandle | None = None
        self._waited = metrics.query_wait_seconds
        self._recalled = metrics.query_recalled
        self._refused = metrics.query_refused

    async def run(self, tenant: str, name: str, until: Until, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` brings, once it is `tenant`'s turn; `work` may be cancelled and called again.

        Raises `Overloaded` where too many wait, and where its turn does not come in time.
        """
        loop = asyncio.get_running_loop()
        turn = self.places.enter(tenant, name, loop.time(), until)
        if turn is None:
            self._refused.labels("full").inc()
            raise errors.Overloaded(
                "too many questions of this fleet wait for the database", retry_after_s=limits.QUERY_WAIT_S
            )
        try:
            while True:
                await self._my_turn(turn)
                working = self._working[turn] = loop.create_task(work(), name="query-look")
                try:
                    found: T = await working
                    return found
                except BaseException:  # what a statement that is cancelled ends with is not always the same
                    if self._working.get(turn) is working or _is_cancelled():
                        raise
                    # Else it was recalled.
        finally:
            self._working.pop(turn, None)
            self.places.leave(turn, loop.time())
            self._step()

    async def _my_turn(self, turn: Turn) -> None:
        """Wait for its place; raises `Overloaded` when that did not come in time."""
        self._step()
        while turn.state == "waiting":
            told = self._told[turn] = asyncio.get_running_loop().create_future()
            try:
                await told
            finally:
                del self._told[turn]
        if turn.state == "over":
            self._refused.labels("late").inc()
            raise errors.Overloaded("the database is busy with other questions", retry_after_s=limits.QUERY_WAIT_S)
        self._waited.observe(turn.granted_at - turn.since)

    def _step(self) -> None:
        """Have everybody know what follows from what has happened."""
        loop = asyncio.get_running_loop()
        step = self.places.step(loop.time())
        for turn in step.recalled:
            self._recalled.inc()
            working = self._working.pop(turn, None)
            if working is not None:
                working.cancel()
        for turn in (*step.granted, *step.expired):
            told = self._told.get(turn)
            if told is not None and not told.done():
                told.set_result(None)
        if self._look is not None:
            self._look.cancel()
        self._look = None if step.look_at is None else loop.call_at(step.look_at, self._step)


def _is_cancelled() -> bool:
    """Whether the running task itself was told to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
