"""The bench of tasks, its part about workflows: three steps one after another, started to told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from coord.client.building import StepRef, Workflow
from coord.ops.bench.measure import Figures, cpu_s, percentile, quiet_heap, windowed_s
from coord.wire.flow import Definition

if TYPE_CHECKING:
    from coord.ops.bench.tasks import Bench

STEPS: Final = 3

_WARM_UP: Final = 20
_RESULT_S: Final = 120.0


async def workflows(bench: Bench) -> Figures:
    """One at a time with a pause before each, then as many as the window takes: of tasks, and of local steps."""
    found: Figures = {}
    kinds = (("", "", chain()), (".local", "local_", chain(local=True)))
    async with bench.agents("no-op", agents=2, capacity=128) as workers:
        for _, prefix, definition in kinds:
            took = await _alone(bench, definition)
            found |= {f"workflow_ms.{prefix}p{p}": [percentile(took, p / 100)] for p in (50, 99)}
        for _ in range(bench.config.rounds):
            for suffix, prefix, definition in kinds:
                per_s, cpu_us = await _at_once(bench, workers.pid, definition)
                found.setdefault(f"workflows_per_s{suffix}", []).append(per_s)
                for name, spent_us in cpu_us.items():
                    found.setdefault(f"workflow_cpu_us.{prefix}{name}", []).append(spent_us)
    return found


async def _alone(bench: Bench, definition: Definition) -> list[float]:
    """Milliseconds of one at a time, sorted."""
    took: list[float] = []
    for n in range(bench.config.idle // STEPS + _WARM_UP):
        await asyncio.sleep(bench.config.idle_pause_s)
        began = time.perf_counter()
        await bench.c.run_workflow(definition, n, id=bench.id(), timeout_s=_RESULT_S)
        if n >= _WARM_UP:
            took.append((time.perf_counter() - began) * 1e3)
    return sorted(took)


async def _at_once(bench: Bench, workers_pid: int, definition: Definition) -> tuple[float, dict[str, float]]:
    """How many in a second, and µs of CPU for one, by whose they are."""
    count = bench.config.flood // (4 * STEPS)
    with quiet_heap():
        coord_s, agents_s, clock = cpu_s(bench.fleet.pid), cpu_s(workers_pid), bench.clock()
        took_s = await flood(bench, count, definition)
        clock.stop()
    spent = {
        "agents": cpu_s(workers_pid) - agents_s,
        "coord": cpu_s(bench.fleet.pid) - coord_s,
        "database": clock.database_cpu_s,
        "nats": clock.server_cpu_s,
        "submitter": clock.client_cpu_s,
    }
    spent["all"] = sum(spent.values())
    return count / took_s, {name: seconds / count * 1e6 for name, seconds in spent.items()}


async def flood(bench: Bench, count: int, definition: Definition | None = None) -> float:
    """Run `count` workflows, never more than half the window at a time; the seconds until the last one's end."""
    defined = chain() if definition is None else definition

    async def one() -> None:
        await bench.c.run_workflow(defined, id=bench.id(), timeout_s=_RESULT_S)

    return await windowed_s(count, bench.config.window // 2, one)


def chain(capability: str = "no-op", *, local: bool = False) -> Definition:
    """`STEPS` tasks of a capability, each after the one before; `local`: one task, and local steps."""
    flow = Workflow("chain")
    before: list[StepRef] = []
    for n in range(STEPS):
        before = [flow.task(f"s{n}", capability, needs=before, retries=0, local=local and n > 0)]
    return flow.definition()
