"""The bench of tasks, its part about what coordination costs beside work: handlers that burn ten milliseconds of CPU.

Overhead is the CPU of everything but the handlers, divided by all: nats-server, PostgreSQL, ``coord serve``, the
submitter, and what the agents' processes use besides.  It depends on how many tasks come: whatever comes alone
wakes everybody up alone, what comes together shares it.  So it is measured

* at saturation: one process of agents a core, all tasks submitted at once, as many done as the cores can;
* with `TasksConfig.full`, at a rate that the machine has time for, open loop;

for single tasks and for workflows of three such steps, as tasks and as local steps.  A quarter as many tasks come
first: what a fleet's first second costs, in which partitions find their owners, is no share of its work.  What the
fleet costs while it does nothing at all is beside them: at a hundred tasks a second a hundredth of it is in each.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from coord.ops import environment
from coord.ops.bench.flows import STEPS, chain
from coord.ops.bench.measure import Figures, cpu_s
from coord.ops.bench.task_worker import WORK_S

if TYPE_CHECKING:
    from coord.ops.bench.tasks import Bench
    from coord.wire.flow import Definition

TASKS_PER_S: Final = 100
"""Half of what two cores can do of such tasks."""
FLOWS_PER_S: Final = 30
"""About as many steps."""
_CAPACITY: Final = 4
"""Tasks that each process holds: the next is there when one ends."""
_RESULT_S: Final = 120.0

Many = Callable[[], Awaitable[int]]
"""Does something; how many."""


async def overhead(bench: Bench) -> Figures:
    """Tasks and workflows that take CPU: what is not theirs, saturated (`full`: at a rate, too); an idle second."""
    config = bench.config
    flow, local = chain("work"), chain("work", local=True)
    flows = max(1, config.overhead // (STEPS + 1))

    async def tasks_at_once(count: int = config.overhead) -> int:
        handles = await bench.c.submit_many("work", [None] * count, returns=float)
        await asyncio.gather(*(handle.result(timeout_s=_RESULT_S) for handle in handles))
        return len(handles)

    async def task() -> None:
        handle = await bench.c.submit("work", id=bench.id(), returns=float)
        await handle.result(timeout_s=_RESULT_S)

    async def run_flow(defined: Definition = flow) -> None:
        await bench.c.run_workflow(defined, id=bench.id(), timeout_s=_RESULT_S)

    async def flows_at_once(defined: Definition = flow) -> int:
        await asyncio.gather(*(run_flow(defined) for _ in range(flows)))
        return flows

    async with contextlib.AsyncExitStack() as stack:
        pids = []
        for _ in range(environment.cores()):
            worker = await stack.enter_async_context(bench.agents("work", capacity=_CAPACITY))
            pids.append(worker.pid)
        await tasks_at_once(config.overhead // 4 + 1)
        await run_flow()
        idle, _ = await _spent_s(bench, pids, lambda: _nothing(config.overhead_s))
        found = {"fleet_idle.cpu_us": [sum(idle.values()) * 1e6]} | _by_process("fleet_idle_us", idle)
        sides: tuple[tuple[str, int, Many], ...] = (
            ("coordination_overhead", 1, tasks_at_once),
            ("coordination_overhead.workflows", STEPS, flows_at_once),
            ("coordination_overhead.workflows_local", STEPS, lambda: flows_at_once(local)),
        )
        paced: tuple[tuple[str, int, Many], ...] = (
            (f"coordination_overhead.at_{TASKS_PER_S}", 1, lambda: _paced(TASKS_PER_S, config.overhead_s, task)),
            (f"coordination_overhead.workflows_at_{FLOWS_PER_S}", STEPS,
             lambda: _paced(FLOWS_PER_S, config.overhead_s, run_flow)),
        )  # fmt: skip
        for name, steps, many in sides + (paced if config.full else ()):
            each, per_s = await _spent_s(bench, pids, many)
            found[name] = [1 - steps * WORK_S / sum(each.values())]
            found[f"{name}_per_s"] = [per_s]
            if many is tasks_at_once:
                each["agents"] -= WORK_S
                found |= _by_process(f"{name}_us", each)
    return found


async def _spent_s(bench: Bench, pids: list[int], many: Many) -> tuple[dict[str, float], float]:
    """CPU seconds of each kind of process for one, and how many were done in a second.  `pids`: of the agents."""
    coord_s, agents_s, clock = cpu_s(bench.fleet.pid), sum(map(cpu_s, pids)), bench.clock()
    count = await many()
    clock.stop()
    spent = {
        "coord": cpu_s(bench.fleet.pid) - coord_s,
        "nats": clock.server_cpu_s,
        "agents": sum(map(cpu_s, pids)) - agents_s,
        "submitter": clock.client_cpu_s,
        "database": clock.database_cpu_s,
    }
    return {name: seconds / count for name, seconds in spent.items()}, count / clock.seconds


def _by_process(name: str, seconds: dict[str, float]) -> Figures:
    return {f"{name}.{process}": [each * 1e6] for process, each in seconds.items()}


async def _paced(per_s: float, seconds: float, one: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Begin `one` at a rate, whatever becomes of them (open loop); how many, once all have ended."""
    count = max(1, int(per_s * seconds))
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in range(count):
            await asyncio.sleep(max(0.0, began + n / per_s - time.perf_counter()))
            group.create_task(one())
    return count


async def _nothing(seconds: float) -> int:
    """Pass the time; "one" is a second of it."""
    whole = max(1, round(seconds))
    await asyncio.sleep(whole)
    return whole
