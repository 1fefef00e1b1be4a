"""A decider's process is killed while workflows run: another goes on, and nothing is decided twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

import coord
from coord.client.workflows import WorkflowHandle, facts_of
from tests.support import forking
from tests.support.tasks import Fleet, services
from tests.support.waiting import until

pytestmark = pytest.mark.slow

WORKFLOWS = 60

_CHILD = """
import asyncio, sys
from coord.bus.connection import NatsConfig
from coord.server.decider_service import DeciderService

async def main():
    service = DeciderService(NatsConfig(urls=(sys.argv[1],)))
    await service.start()
    await service.wait_ready(60)
    print("ready", flush=True)
    await service.wait()

asyncio.run(main())
"""


@pytest.fixture
async def fleet(start_nats: Any) -> AsyncIterator[Fleet]:
    async with services((await start_nats()).url) as fleet:
        yield fleet


async def test_killed_in_the_middle(fleet: Fleet, record_property: Any) -> None:
    agent = coord.Agent("crew", capabilities={"add": 16})
    ran: Counter[str] = Counter()

    @agent.task("add")
    async def add(given: int, ctx: coord.TaskContext) -> int:
        ran[f"{ctx.key}/{ctx.task_id}"] += 1
        await asyncio.sleep(0.01)
        return given + 1

    flow = coord.Workflow("chain")
    one = flow.task("one", "add", for_each=[1, 2], max_parallelism=1)
    two = flow.task("two", "add", needs=[one], input="$input")
    flow.task("three", "add", needs=[two])
    child = await forking.python("-c", _CHILD, fleet.url, stderr=subprocess.DEVNULL)
    try:
        assert await asyncio.wait_for(child.stdout.readline(), 60) == b"ready\n"
        await until(lambda: len([p for p in fleet.deciders.partitions if p.is_running]) <= 10)
        async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
            handles: list[WorkflowHandle[Any]] = [await c.start_workflow(flow, n, id=f"w{n}") for n in range(WORKFLOWS)]
            await until(lambda: sum(ran.values()) >= WORKFLOWS // 3)
            os.kill(child.pid, signal.SIGKILL)
            found = await asyncio.gather(*(handle.result(250) for handle in handles))
            assert found == [n + 2 for n in range(WORKFLOWS)]
            for n in range(WORKFLOWS):
                facts = await facts_of(c, f"w{n}")
                told = Counter((f.kind, f.id, f.event) for f in facts if f.agent == "_workflow")
                assert max(told.values()) == 1, "each decision is in the log once"
                assert told["workflow", f"w{n}", "completed"] == 1
                assert len([1 for kind, _, event in told if (kind, event) == ("task", "submitted")]) == 4
        again = sum(count - 1 for count in ran.values())
        print(f"{WORKFLOWS} workflows, {sum(ran.values())} executions, {again} of them again")
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
