"""``python -m coord.ops.bench.task_worker JOB``: one process of the bench of tasks; see `coord.ops.bench.workers`.

fleet    what ``coord serve`` runs: projector, query service, deciders, presence, until standard input ends
agents   as many SDK agents as wanted, each with a connection of its own and the capabilities `no-op`,
         `work` or `hold`; says what memory each takes; until standard input ends
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CollectorRegistry

from coord.bus.connection import NatsConfig
from coord.client.agent import Agent
from coord.client.tasks import TaskContext
from coord.ops import serve
from coord.ops.bench import process
from coord.ops.bench.measure import rss_bytes
from coord.ops.bench.workers import Job
from coord.ops.devstack.nats import SYSTEM_USER
from coord.ops.settings import Settings
from coord.runtime.http import HttpConfig
from coord.server.presence import PresenceConfig
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics

TENANT: Final = "bench"
WORK_S: Final = 0.010
"""CPU that the handler of `work` takes: what an agent does between two facts is mostly waiting; this is all work."""

_CONNECT_AT_A_TIME: Final = 32


async def fleet(job: Job, parent_gone: asyncio.Event) -> None:
    """Run the services of one process until the parent has enough."""
    settings = Settings(
        nats=NatsConfig(urls=(job.nats_url,)),
        database=DatabaseConfig(url=job.database_url),
        presence=PresenceConfig(system_user=SYSTEM_USER, system_password=SYSTEM_USER),
        http=HttpConfig(enabled=False),
    )
    group = serve.services(settings, registry=Metrics(CollectorRegistry()))
    async with group:
        await group.wait_ready(60)
        process.say({"ready": True})
        await parent_gone.wait()


async def agents(job: Job, parent_gone: asyncio.Event) -> None:
    """Be `job.agents` agents until the parent has enough."""
    before = rss_bytes(os.getpid())
    async with contextlib.AsyncExitStack() as stack:
        for start in range(0, job.agents, _CONNECT_AT_A_TIME):
            names = range(start, min(start + _CONNECT_AT_A_TIME, job.agents))
            workers = [_agent(f"{job.handler}-{os.getpid()}-{i}", job) for i in names]
            await asyncio.gather(*(stack.enter_async_context(w.connect(job.nats_url, tenant=TENANT)) for w in workers))
        gc.collect()
        gc.freeze()
        process.say({"ready": True, "agent_bytes": (rss_bytes(os.getpid()) - before) / job.agents})
        await parent_gone.wait()


def _agent(name: str, job: Job) -> Agent:
    agent = Agent(name, capabilities={job.handler: job.capacity}, drain_s=1.0)
    handlers: dict[str, Callable[..., Awaitable[float]]] = {"no-op": nothing, "work": work, "hold": hold}
    agent.task(job.handler, timeout_s=60, retries=0)(handlers[job.handler])
    return agent


async def nothing() -> float:
    """Say when it began (Unix seconds)."""
    return time.time()


async def work() -> float:
    """The same, after `WORK_S` of CPU."""
    began, until = time.time(), time.process_time() + WORK_S
    while time.process_time() < until:
        pass
    return began


async def hold(ctx: TaskContext) -> float:
    """Hold it for ever the first time; say when it began when it is another one's turn."""
    if ctx.claim == 1:
        await asyncio.sleep(3600)
    return time.time()


if __name__ == "__main__":
    sys.exit(process.main(sys.argv[1], {"fleet": fleet, "agents": agents}, patient=frozenset({"fleet", "agents"})))
