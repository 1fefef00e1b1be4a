"""The bench of tasks, its parts about priorities: what critical work waits beside a flood, and who gets which share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from coord.client.task_handle import TaskHandle
from coord.ops.bench.measure import Figures, percentile
from coord.ops.bench.task_worker import NAP_S
from coord.wire import work

if TYPE_CHECKING:
    from coord.ops.bench.tasks import Bench

_SLOTS: Final = 4
"""Of two agents, half of them each: together they do eighty naps a second."""
FLOOD_TIMES: Final = 10
"""So much faster than its agents work is batch work submitted."""
_CRITICAL_PER_S: Final = 20.0
"""A quarter of what the slots can do."""
_RESULT_S: Final = 120.0


async def critical(bench: Bench) -> Figures:
    """Critical tasks at a rate: alone, then beside a backlog that nobody serves and a flood of batch tasks."""
    seconds = bench.config.critical_s
    async with bench.agents("nap", agents=2, capacity=_SLOTS // 2):
        await _waits_ms(bench, seconds / 8)
        idle = await _waits_ms(bench, seconds)
        await bench.c.submit_many("unserved", [None] * bench.config.unserved, priority="batch")
        async with bench.submitter("nap", per_s=FLOOD_TIMES * _SLOTS / NAP_S, priority="batch"):
            await _waits_ms(bench, seconds / 8)
            flooded = await _waits_ms(bench, seconds)
    figures: Figures = {}
    for name, waits in (("idle", idle), ("flooded", flooded)):
        for p in (50, 99):
            figures[f"critical_wait_ms.{name}_p{p}"] = [percentile(waits, p / 100)]
    ratio = figures["critical_wait_ms.flooded_p99"][0] / figures["critical_wait_ms.idle_p99"][0]
    return figures | {"critical_wait_ms.flooded_to_idle": [ratio]}


async def _waits_ms(bench: Bench, seconds: float) -> list[float]:
    """Submit critical tasks, open loop; sorted, from each one's submission to its handler's first line."""
    count = max(1, int(seconds * _CRITICAL_PER_S))
    began = time.perf_counter()

    async def one() -> float:
        at = time.time()
        handle = await bench.c.submit("nap", id=bench.id(), priority="critical", returns=float)
        began_at: float = await handle.result(timeout_s=_RESULT_S)
        return (began_at - at) * 1e3

    waits: list[asyncio.Task[float]] = []
    async with asyncio.TaskGroup() as group:
        for n in range(count):
            await asyncio.sleep(max(0.0, began + n / _CRITICAL_PER_S - time.perf_counter()))
            waits.append(group.create_task(one()))
    return sorted(wait.result() for wait in waits)


async def shares(bench: Bench) -> Figures:
    """As many tasks of each priority wait when one agent comes: how many it begins of each while all have some left."""
    count = bench.config.shares
    waiting: list[tuple[str, TaskHandle[float]]] = []
    for priority in work.PRIORITIES:
        handles = await bench.c.submit_many("no-op", [None] * count, priority=priority, returns=float)
        waiting += [(priority, handle) for handle in handles]
    async with bench.agents("no-op", capacity=_SLOTS):
        began = [(await handle.result(timeout_s=_RESULT_S), priority) for priority, handle in waiting]
    # The most urgent one's last is begun when two thirds of the others' wait.
    first = Counter(priority for _, priority in sorted(began)[:count])
    return {f"shares.{priority}": [first[priority] / max(1, first["batch"])] for priority in work.PRIORITIES}
