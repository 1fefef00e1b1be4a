"""``python -m coord.ops.bench.task_worker JOB``: one process of the bench of tasks; see `coord.ops.bench.workers`.

fleet    what ``coord serve`` runs: projector, query service, deciders, presence, until standard input ends
agents   as many SDK agents as wanted, each with a connection of its own and the capabilities `no-op`,
         `work`, `nap` or `hold`; says what memory each takes; until standard input ends
submitter  submits at a rate, whatever becomes of it; at the end says how long the acknowledgements took
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

from coord.client.agent import Agent
from coord.client.connect import connect
from coord.client.tasks import TaskContext
from coord.errors import Overloaded
from coord.ops.bench import process
from coord.ops.bench.measure import rss_bytes
from coord.ops.bench.workers import Job

TENANT: Final = "bench"
WORK_S: Final = 0.010
"""CPU that the handler of `work` takes: what an agent does between two facts is mostly waiting; this is all work."""

NAP_S: Final = 0.05
"""How long the handler of `nap` sleeps: it has a slot and takes no CPU."""

_CONNECT_AT_A_TIME: Final = 32
_TICK_S: Final = 0.01
"""A submitter of more than a hundred tasks a second submits several at a time,"""
_UNDER_WAY_MAX: Final = 512
"""and waits where so many are not acknowledged."""


async def fleet(job: Job, parent_gone: asyncio.Event) -> None:
    """Run the services of one process until the parent has enough."""
    # Not at the top: agents do not import what serves them, which is half of what a process takes to begin.
    from prometheus_client import CollectorRegistry

    from coord.bus.connection import NatsConfig
    from coord.ops import serve
    from coord.ops.devstack.nats import SYSTEM_USER
    from coord.ops.settings import Settings
    from coord.runtime.http_config import HttpConfig
    from coord.server.config import PresenceConfig
    from coord.store.config import DatabaseConfig
    from coord.telemetry.metrics import Metrics

    settings = Settings(
        nats=NatsConfig(urls=tuple(job.nats_url.split(","))),
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


async def submitter(job: Job, parent_gone: asyncio.Event) -> None:
    """Submit at a rate until the parent has enough; what is refused, because the system is full, is counted."""
    acks_ms: list[float] = []
    refused = 0
    room = asyncio.Semaphore(_UNDER_WAY_MAX)
    async with connect(job.nats_url, tenant=TENANT, agent=f"submitter-{os.getpid()}") as c:

        async def one() -> None:
            nonlocal refused
            began = time.perf_counter()
            try:
                await c.submit(job.handler, priority=job.priority, preemptible=job.priority == "batch")
                acks_ms.append((time.perf_counter() - began) * 1e3)
            except Overloaded:
                refused += 1
            finally:
                room.release()

        await room.acquire()
        await one()
        acks_ms.clear()
        process.say({"ready": True})
        began, count = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while not parent_gone.is_set():
                for _ in range(int((time.perf_counter() - began) * job.per_s) - count):
                    count += 1
                    await room.acquire()
                    group.create_task(one())
                await asyncio.sleep(max(_TICK_S, 1 / job.per_s))
    process.say({"acks_ms": acks_ms, "refused": refused})


def _agent(name: str, job: Job) -> Agent:
    agent = Agent(name, capabilities={job.handler: job.capacity}, drain_s=1.0)
    handlers: dict[str, Callable[..., Awaitable[float]]] = {
        "no-op": nothing, "work": work, "nap": nap, "hold": hold
    }  # fmt: skip
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


async def nap() -> float:
    """The same, after a while in which it needs nothing but its slot."""
    began = time.time()
    await asyncio.sleep(NAP_S)
    return began


async def hold(ctx: TaskContext) -> float:
    """Hold it for ever the first time; say when it began when it is another one's turn."""
    if ctx.claim == 1:
        await asyncio.sleep(3600)
    return time.time()


_ROLES: Final[dict[str, process.Role]] = {"fleet": fleet, "agents": agents, "submitter": submitter}


if __name__ == "__main__":
    sys.exit(process.main(sys.argv[1], _ROLES, patient=frozenset(_ROLES)))
