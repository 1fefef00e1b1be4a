"""The bench of tasks, its part about workflows: three steps one after another, started to told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from coord.client.building import StepRef, Workflow
from coord.ops.bench.measure import Figures, cpu_s, percentile, windowed_s
from coord.wire.flow import Definition

if TYPE_CHECKING:
    from coord.ops.bench.tasks import Bench

STEPS: Final = 3

_WARM_UP: Final = 20
_RESULT_S: Final = 120.0


async def workflows(bench: Bench) -> Figures:
    """One at a time with a pause before each, then as many as the window takes."""
    definition = chain()
    config = bench.config
    took: list[float] = []
    rates: list[float] = []
    cpu: Figures = {}
    async with bench.agents("no-op", agents=2, capacity=128) as workers:
        for n in range(config.idle // STEPS + _WARM_UP):
            await asyncio.sleep(config.idle_pause_s)
            began = time.perf_counter()
            await bench.c.run_workflow(definition, n, id=bench.id(), timeout_s=_RESULT_S)
            if n >= _WARM_UP:
                took.append((time.perf_counter() - began) * 1e3)
        count = config.flood // (3 * STEPS)
        for _ in range(config.rounds):
            coord_s, agents_s, clock = cpu_s(bench.fleet.pid), cpu_s(workers.pid), bench.clock()
            took_s = await flood(bench, count)
            clock.stop()
            rates.append(count / took_s)
            spent = {
                "submitter": clock.client_cpu_s,
                "agents": cpu_s(workers.pid) - agents_s,
                "coord": cpu_s(bench.fleet.pid) - coord_s,
                "nats": clock.server_cpu_s,
                "database": clock.database_cpu_s,
            }
            for name, seconds in spent.items() | {("all", sum(spent.values()))}:
                cpu.setdefault(f"workflow_cpu_us.{name}", []).append(seconds / count * 1e6)
    took.sort()
    idle = {f"workflow_ms.p{p}": [percentile(took, p / 100)] for p in (50, 99)}
    return {"workflows_per_s": rates} | dict(sorted(cpu.items())) | idle


async def flood(bench: Bench, count: int) -> float:
    """Run `count` workflows, never more than half the window at a time; the seconds until the last one's end."""
    definition = chain()

    async def one() -> None:
        await bench.c.run_workflow(definition, id=bench.id(), timeout_s=_RESULT_S)

    return await windowed_s(count, bench.config.window // 2, one)


def chain(capability: str = "no-op") -> Definition:
    """`STEPS` tasks of a capability, each after the one before."""
    flow = Workflow("chain")
    before: list[StepRef] = []
    for n in range(STEPS):
        before = [flow.task(f"s{n}", capability, needs=before, retries=0)]
    return flow.definition()
