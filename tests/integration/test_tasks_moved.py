"""The tasks of a worker that is killed are run by others, at once, and each has one outcome."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import coord
from tests.support.tasks import services

ROOT = Path(__file__).resolve().parents[2]


async def test_a_killed_workers_tasks_move(nats_server) -> None:
    async with services(nats_server.url) as fleet, fleet.client() as c:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.worker_process", fleet.url, fleet.tenant, "doomed", "600",
            stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        try:
            assert child.stdout is not None
            async with asyncio.timeout(60):
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
                began = await asyncio.gather(*(h.result(timeout_s=60) for h in handles))
                print("moved after", [round(at - killed_at, 3) for at in began])
                assert survivor.stats.completed == 4
            for handle in handles:
                task = await handle.status()
                assert (task.status, task.claims, task.deaths) == ("completed", 2, 1)
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
