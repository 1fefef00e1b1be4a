"""The tasks of a worker that is killed are run by others, at once, and each has one outcome."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

import pytest

import coord
from coord.bus.connection import NatsConfig
from tests.support import forking
from tests.support.tasks import services
from tests.support.waiting import until


async def test_a_killed_workers_tasks_move(nats_server) -> None:
    async with services(nats_server.url) as fleet, fleet.client() as c:
        child = await forking.python("-m", "tests.support.worker_process", fleet.url, fleet.tenant, "doomed", "600")
        try:
            async with asyncio.timeout(120):
                assert await child.stdout.readline() == b"ready\n"
                handles = await c.submit_many("hold", range(4))
                for _ in handles:
                    assert (await child.stdout.readline()).startswith(b"began")
            agent = coord.Agent("survivor", capabilities={"hold": 8})

            @agent.task("hold")
            async def hold(_: int) -> float:
                return time.monotonic()

            async with agent.connect(fleet.url, tenant=fleet.tenant) as survivor:
                killed_at = time.monotonic()
                child.send_signal(signal.SIGKILL)
                began = await asyncio.gather(*(h.result(timeout_s=150) for h in handles))
                print("moved after", [round(at - killed_at, 3) for at in began])
                assert survivor.stats.completed == 4
            for handle in handles:
                task = await handle.status()
                assert (task.status, task.claims, task.deaths) == ("completed", 2, 1)
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()


@pytest.mark.slow
async def test_a_worker_that_stood_still_loses_its_tasks_and_ends_its_handlers(nats_server) -> None:
    async with services(nats_server.url) as fleet, fleet.client() as c:
        child = await forking.python("-m", "tests.support.worker_process", fleet.url, fleet.tenant, "hung", "600")
        try:
            async with asyncio.timeout(250):
                assert await child.stdout.readline() == b"ready\n"
                handle = await c.submit("hold", 1)
                assert (await child.stdout.readline()).startswith(b"began")
                agent = coord.Agent("survivor", capabilities={"hold": 8})

                @agent.task("hold")
                async def hold(_: int) -> float:
                    return time.monotonic()

                async with agent.connect(fleet.url, tenant=fleet.tenant):
                    stopped_at = time.monotonic()
                    child.send_signal(signal.SIGSTOP)
                    moved_s = await handle.result(timeout_s=150) - stopped_at
                    print("moved after", round(moved_s, 3))
                    child.send_signal(signal.SIGCONT)
                    assert await child.stdout.readline() == b"ended 1\n"
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()


async def test_a_broker_that_is_killed_and_comes_back_runs_nothing_twice(start_nats) -> None:
    server = await start_nats()
    runs: Counter[int] = Counter()
    agent = coord.Agent("steady", capabilities={"steady": 16})

    @agent.task("steady")
    async def steady(n: int) -> int:
        runs[n] += 1
        await asyncio.sleep(0.05)
        return n

    async with (
        services(server.url) as fleet,
        agent.connect(NatsConfig(urls=(server.url,), reconnect_wait_s=0.05), tenant=fleet.tenant),
        fleet.client() as c,
    ):
        handles = await c.submit_many("steady", range(200))
        await until(lambda: len(runs) > 40)
        server.kill()
        await server.start()
        assert sorted(await asyncio.gather(*(h.result(timeout_s=200) for h in handles))) == list(range(200))
        assert max(runs.values()) == 1, runs.most_common(5)
        # The broker may have forgotten acks: what it delivers again reaches no handler.
        more = await c.submit_many("steady", range(200, 220))
        await asyncio.gather(*(h.result(timeout_s=200) for h in more))
        assert max(runs.values()) == 1, runs.most_common(5)
