"""How every system is measured: one at a time, then a window full; the same code for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from coord.ops.bench import process
from coord.ops.bench.beside.job import Effort, Job, Kind, One
from coord.ops.bench.measure import quiet_heap

_WARM_UP = 10
_WARM_UP_MAX_S = 5.0


async def measure(kind: Kind, one: One, job: Job) -> None:
    """Say what `one` takes alone, then that the flood begins to count, then how many it was.

    The parent reads the CPU time of every process between the last two lines.
    """
    alone = await idle(one, job.effort)
    process.say({"kind": kind, "idle_ms": alone})
    await flood(kind, one, job)


async def idle(one: One, effort: Effort) -> list[float]:
    """Milliseconds of each."""
    took_ms: list[float] = []
    for _ in range(min(_WARM_UP, effort.idle)):
        await one()
    until = time.perf_counter() + effort.idle_s
    while len(took_ms) < effort.idle and (not took_ms or time.perf_counter() < until):
        began = time.perf_counter()
        await one()
        took_ms.append((time.perf_counter() - began) * 1e3)
    return took_ms


async def flood(kind: Kind, one: One, job: Job) -> None:
    """Keep a window of them under way; what ends between two moments counts."""
    count = 0
    over = False
    window = job.window if kind == "task" else job.window_flows

    async def loop() -> None:
        nonlocal count
        while not over:
            await one()
            count += 1

    with quiet_heap():
        async with asyncio.TaskGroup() as group:
            for _ in range(window):
                group.create_task(loop())
            await asyncio.sleep(job.effort.warm_up_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WARM_UP_MAX_S):
                    # The first ones are slower, with some systems by seconds.
                    while count < window:  # noqa: ASYNC110 - nobody waits for this but here
                        await asyncio.sleep(0.01)
            process.say({"kind": kind, "counting": True})
            before, began, cpu_s = count, time.perf_counter(), time.process_time()
            await asyncio.sleep(job.effort.flood_s)
            while count == before:  # noqa: ASYNC110 - as above; the parent loses patience
                await asyncio.sleep(0.01)
            found: dict[str, Any] = {
                "kind": kind,
                "count": count - before,
                "seconds": time.perf_counter() - began,
                "cpu_s": time.process_time() - cpu_s,
            }
            process.say(found)
            over = True
