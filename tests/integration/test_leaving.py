"""Leaving has one deadline, whatever is under way and whatever the broker does."""

from __future__ import annotations

import asyncio
import time

import pytest

import coord
from coord import limits
from coord.wire.envelope import Fact
from tests.support.standing import standing_still
from tests.support.tasks import services
from tests.support.waiting import until

DRAIN_S = 0.5


async def test_a_broker_that_stands_still_keeps_an_agent_for_one_deadline_not_for_one_after_the_other(
    start_nats,
) -> None:
    server = await start_nats()
    agent = coord.Agent("leaver", capabilities={"one": 1, "another": 1})
    go = asyncio.Event()

    async def wait(_: int) -> None:
        await go.wait()

    for capability in agent.capabilities:
        agent.task(capability)(wait)
    async with services(server.url) as fleet, fleet.client() as boss:
        c = await fleet.client("leaver", drain_s=DRAIN_S)
        worker = await agent.start(c)
        await c.subscribe(kind="note", durable="bookmark").__aenter__()
        for capability in agent.capabilities:
            await boss.submit(capability, 1)
        await until(lambda: worker.held == 2, 90)
        with standing_still(server.pid):
            go.set()  # an outcome that nobody acknowledges, and a fact
            await c.emit(Fact(kind="note", id="n", event="said"))
            began = time.monotonic()
            with pytest.raises(coord.errors.FlushFailed):
                await c.close()
            took_s = time.monotonic() - began
            await c.close()
    print(f"left after {took_s:.2f} s")
    assert took_s < DRAIN_S + limits.CONNECTION_CLOSE_S + 1.0
