"""More idle workers than seats: few wait at the broker, a burst is everybody's, and those who waited may die."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

import coord
from coord import limits
from coord.bus.connection import NatsConfig
from coord.client.worker import Worker
from coord.server.board import BoardService
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from tests.support.tasks import Fleet
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SEATS = 2
_WORKERS = 10


class _Holding:
    """Workers of one slot whose tasks last until they are let go."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.begun = 0
        self.go = asyncio.Event()

    async def start(self, fleet: Fleet, stack: contextlib.AsyncExitStack) -> None:
        for n in range(_WORKERS):
            agent = coord.Agent(f"w{n}", capabilities={"hold": 1}, drain_s=0)
            agent.task("hold")(self.hold)
            self.workers.append(await stack.enter_async_context(agent.connect(fleet.url, tenant=fleet.tenant)))
        await until(lambda: self.waiting() + self.standing() == _WORKERS and self.standing() > 0)

    async def hold(self) -> None:
        self.begun += 1
        await self.go.wait()

    def waiting(self) -> int:
        return sum(w.seat("hold") == "seated" for w in self.workers)

    def standing(self) -> int:
        return sum(w.seat("hold") == "standing" for w in self.workers)


@pytest_asyncio.fixture(loop_scope="module")
async def holding(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Holding]:
    monkeypatch.setattr(limits, "QUEUE_SEATS", _SEATS)
    found = _Holding()
    async with contextlib.AsyncExitStack() as stack:
        await found.start(fleet, stack)
        yield found
        found.go.set()


async def test_few_wait_and_a_burst_is_begun_by_all(fleet: Fleet, holding: _Holding) -> None:
    consumer = subjects.queue(fleet.tenant, "hold", "normal")

    async def pulls() -> int:
        return int((await fleet.conn.api(f"CONSUMER.INFO.EVENTS.{consumer}"))["num_waiting"])

    async with asyncio.timeout(90):
        while not 1 <= await pulls() <= 2 * _SEATS:  # noqa: ASYNC110 - it is the broker that is asked
            await asyncio.sleep(0.02)
    async with fleet.client() as c:
        handles = await c.submit_many("hold", [None] * _WORKERS)
        await until(lambda: holding.begun == _WORKERS)
        holding.go.set()
        await asyncio.gather(*(handle.result(timeout_s=90) for handle in handles))
        # Whoever is back stands by or waits; the next one is begun all the same.
        handle = await c.submit("hold")
        await handle.result(timeout_s=90)


@pytest.mark.usefixtures("unsuspecting")
async def test_when_all_who_waited_have_died_the_service_wakes_another(fleet: Fleet, holding: _Holding) -> None:
    """Nobody passed a seat on, so none of those who stand by knows: the wake is lost."""
    registry = Metrics(CollectorRegistry())
    config = NatsConfig(urls=(fleet.url,), reconnect_wait_s=0.05)
    for worker in holding.workers:
        if worker.seat("hold") == "seated":
            await worker.conn.close()
    alive = holding.standing()
    async with BoardService(config, fleet.presence.board, fleet.deciders.deciders, registry=registry) as board:
        await board.wait_ready(60)
        async with fleet.client() as c:
            handles = await c.submit_many("hold", [None] * alive)
            await until(lambda: holding.begun == alive)
            holding.go.set()
            await asyncio.gather(*(handle.result(timeout_s=90) for handle in handles))
