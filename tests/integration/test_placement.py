"""Tasks with a placement, end to end on real servers: who is offered them, who runs them, and what the log says."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import coord
from coord.client.histories import read
from coord.ops.devstack.nats import NatsServer
from coord.wire.records import StoredFact
from tests.support.tasks import Fleet, new_tenant, services
from tests.support.waiting import until


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(nats_server: NatsServer) -> AsyncIterator[Fleet]:
    async with services(nats_server.url) as fleet:
        yield fleet


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    """The module's services, and a tenant of this test's own."""
    running.tenant = new_tenant()
    return running


pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextlib.asynccontextmanager
async def agents(fleet: Fleet, *names: str, capacity: int = 8, **labels: dict[str, str]) -> AsyncIterator[list[Any]]:
    """Workers of the capability `work`, each of which answers with its name; all of them are heard of."""
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for name in names:
            agent = coord.Agent(name, capabilities={"work": capacity}, labels=labels.get(name, {}))

            @agent.task("work")
            async def work(_: Any, __: coord.TaskContext, name: str = name) -> str:
                return name

            workers.append(await stack.enter_async_context(agent.connect(fleet.url, tenant=fleet.tenant)))
        await heard(fleet, len(names))
        yield workers


async def heard(fleet: Fleet, count: int) -> None:
    table = fleet.presence.board.table
    await until(lambda: sum(row.state == "alive" for row in table.rows(fleet.tenant, "work")) >= count)


async def placed(fleet: Fleet, id_: str) -> list[StoredFact]:
    _, facts = await read(fleet.conn, fleet.tenant, id_, id_)
    return [fact for fact in facts if fact.event == "placed"]


async def test_the_chosen_agent_runs_it_and_the_decision_is_a_fact(fleet: Fleet) -> None:
    async with agents(fleet, "a", "b", "c"), fleet.client() as c:
        handle = await c.submit("work", 1, id="t1", placement={"strategy": "agent", "agent": "b", "strict": True})
        assert await handle.result(timeout_s=30) == "b"
        (decision,) = await placed(fleet, "t1")
        assert decision.agent == "_scheduler"
        assert decision.data["agent"] == "b"
        assert decision.data["considered"] == 1
        assert [s["agent"] for s in decision.data["candidates"]] == ["b"]


async def test_turns(fleet: Fleet) -> None:
    labels = {"a": {"weight": "2"}, "b": {"weight": "1"}}
    async with agents(fleet, "a", "b", **labels), fleet.client() as c:
        ran = []
        for _ in range(12):
            handle = await c.submit("work", 1, placement=coord.Placement(strategy="round_robin"))
            ran.append(await handle.result(timeout_s=30))
        assert Counter(ran) == {"a": 8, "b": 4}
