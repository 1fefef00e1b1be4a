"""Workers of one slot, more than there are seats, whose tasks last until they are let go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import coord
from coord.client.connect import Connecting
from coord.client.worker import Worker
from tests.support.waiting import until

SEATS: Final = 2
WORKERS: Final = 12

FEW_SEATS: Final[dict[str, int | float]] = {
    "QUEUE_SEATS": SEATS,
    "QUEUE_CROWD": 2 * SEATS,
    "SEAT_AGAIN_S": 0.2,
    "SEAT_LOOK_S": 0.4,
    "STANDBY_LOOK_S": 3_600.0,  # who stands by is woken, or is not
}
"""Bounds of a small fleet, in the place of those in `coord.limits`."""


class Holding:
    """They and who submits; `limits` must be `FEW_SEATS` while they are there."""

    def __init__(self, url: str, tenant: str, client: Callable[[], Connecting]) -> None:
        self.workers: list[Worker] = []
        self.begun = 0
        self.go = asyncio.Event()
        self._url = url
        self._tenant = tenant
        self._client = client

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """All of them; they end with the stack."""
        for n in range(WORKERS):
            agent = coord.Agent(f"w{n}", capabilities={"hold": 1}, drain_s=0)
            agent.task("hold")(self._hold)
            self.workers.append(await stack.enter_async_context(agent.connect(self._url, tenant=self._tenant)))
        stack.callback(self.go.set)

    async def _hold(self) -> None:
        self.begun += 1
        await self.go.wait()

    def standing(self) -> list[Worker]:
        return [w for w in self.workers if w.seat("hold") == "standing"]

    def seated(self) -> list[Worker]:
        return [w for w in self.workers if w.seat("hold") == "seated"]

    async def settled(self) -> None:
        """Few wait, the others stand by."""
        await until(lambda: SEATS <= len(self.seated()) < 2 * SEATS)

    async def do(self, count: int) -> None:
        """So many tasks at once, each by another worker."""
        self.go.clear()
        self.begun = 0
        async with self._client() as c:
            handles = await c.submit_many("hold", [None] * count)
            await until(lambda: self.begun == count)
            self.go.set()
            await asyncio.gather(*(handle.result(timeout_s=90) for handle in handles))
