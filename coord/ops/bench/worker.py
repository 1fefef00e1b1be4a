"""``python -m coord.ops.bench.worker JOB``: one process of the bench; see `coord.ops.bench.workers`.

drain        a projector that starts on a backlog; says how long it took from its first pinned
             partition to its last commit, then ends
projector    a projector, until standard input ends
service      projector and query service, until standard input ends
upkeep       rollups and retention, a look every two seconds, until standard input ends
subscribers  as many agents as wanted, each with a connection of its own, subscribed to what
             is said under its own key; says when each fact was due and how late it came

Services have their process's collector set as `coord serve` has it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from prometheus_client import CollectorRegistry

from coord.bus.connection import Connection, NatsConfig
from coord.client.subscriber import Subscription, subscribe
from coord.ops.bench import process, workload
from coord.ops.bench.measure import BenchError, rss_bytes
from coord.ops.bench.servers import unwatched
from coord.ops.bench.workers import Job
from coord.projector.config import ProjectorConfig
from coord.projector.service import ProjectorService
from coord.query.service import QueryService
from coord.runtime.heap import Heap
from coord.runtime.service import ServiceGroup
from coord.server.config import MaintenanceConfig
from coord.server.maintenance import Maintenance
from coord.store.config import AgesConfig
from coord.telemetry.metrics import Metrics

_POLL_S: Final = 0.002
"""How often the drain looks whether it is done: a few microseconds each, and the error of its end."""

_DRAIN_S: Final = 120.0
_CONNECT_AT_A_TIME: Final = 32


async def drain(job: Job, _parent_gone: asyncio.Event) -> None:
    """Project the backlog; the clock runs from the first pinned partition to the last commit."""
    metrics = Metrics(CollectorRegistry())
    heap, service = Heap(registry=metrics), _projector(job, metrics, streams=(job.stream,))
    process.say({"ready": True})
    try:
        async with asyncio.timeout(_DRAIN_S):
            await heap.start()
            await service.start()
            mine = [p for p in service.partitions if p.partition in job.ends]
            await _until(lambda: any(p.state == "pinned" for p in mine))
            began, cpu = time.perf_counter(), time.process_time()
            await _until(lambda: all(p.checkpoint and p.checkpoint.seq >= job.ends[p.partition] for p in mine))
            seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    except TimeoutError:
        raise BenchError(f"the backlog was not projected within {_DRAIN_S:g} s", health=service.health()) from None
    finally:
        await service.drain()
        await service.stop()
        await heap.stop()
    flushes = metrics.registry.get_sample_value("coord_db_commit_rows_count") or 0.0
    process.say({"seconds": seconds, "cpu_s": cpu_s, "rss_bytes": rss_bytes(os.getpid()), "transactions": flushes})


async def _until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(_POLL_S)


async def project(job: Job, parent_gone: asyncio.Event) -> None:
    """Run a projector, one of several perhaps, until the parent has enough."""
    metrics = Metrics(CollectorRegistry())
    async with ServiceGroup("bench", [Heap(registry=metrics), _projector(job, metrics)]) as group:
        await group.wait_ready(30)
        process.say({"ready": True})
        await parent_gone.wait()


async def keep_up(job: Job, parent_gone: asyncio.Event) -> None:
    """Maintain the tables, looking every two seconds instead of every five minutes, until the parent has enough.

    That is where it begins: where facts come fast, rollups are moved more often, whatever is set.
    """
    metrics = Metrics(CollectorRegistry())
    config = MaintenanceConfig(every_s=2)
    upkeep = Maintenance(None, unwatched(job.database_url), AgesConfig(), config, registry=metrics)
    async with ServiceGroup("bench", [Heap(registry=metrics), upkeep]) as group:
        await group.wait_ready(30)
        process.say({"ready": True})
        await parent_gone.wait()


async def serve(job: Job, parent_gone: asyncio.Event) -> None:
    """Run projector and query service until the parent has enough."""
    metrics = Metrics(CollectorRegistry())
    async with await Connection.open(NatsConfig(urls=(job.nats_url,)), name="bench-query") as conn:
        services = [Heap(registry=metrics), _projector(job, metrics), QueryService(conn, registry=metrics)]
        group = ServiceGroup("bench", services)
        async with group:
            await group.wait_ready(30)
            process.say({"ready": True})
            await parent_gone.wait()


async def listen(job: Job, parent_gone: asyncio.Event) -> None:
    """Be `job.subscribers` agents; once `job.expected` facts have come, say how late each was."""
    metrics = Metrics(CollectorRegistry())
    heard: list[tuple[float, float]] = []
    complete = asyncio.Event()
    async with _connections(job) as connections:
        subscriptions = [
            subscribe(conn, tenant=workload.TENANT, as_agent=f"listener-{i}", key=f"k{i}", registry=metrics)
            for i, conn in enumerate(connections)
        ]
        for start in range(0, len(subscriptions), _CONNECT_AT_A_TIME):
            await asyncio.gather(*(s.wait_ready(30) for s in subscriptions[start : start + _CONNECT_AT_A_TIME]))
        tasks = [asyncio.create_task(_receive(s, heard, job.expected, complete)) for s in subscriptions]
        await asyncio.sleep(0)
        # An agent's collector walks through one subscription; this one would stop a thousand agents at once.
        gc.collect()
        gc.freeze()
        process.say({"ready": True})
        over = [asyncio.create_task(complete.wait()), asyncio.create_task(parent_gone.wait())]
        # Nobody stops receiving by itself: the first receiver that ends has failed.
        done, _ = await asyncio.wait([*tasks, *over], return_when=asyncio.FIRST_COMPLETED)
        for task in [*tasks, *over]:
            task.cancel()
        await asyncio.wait([*tasks, *over])
        for task in done:
            task.result()
        for subscription in subscriptions:
            await subscription.close()
    process.say({"heard": heard})


async def _receive(
    facts: Subscription, heard: list[tuple[float, float]], expected: int, complete: asyncio.Event
) -> None:
    """Note when each fact was due (Unix time) and the milliseconds until it was here."""
    async for fact in facts:
        due = fact.occurred_at.timestamp()
        heard.append((due, (time.time() - due) * 1000))
        if len(heard) == expected:
            complete.set()


@asynccontextmanager
async def _connections(job: Job) -> AsyncIterator[list[Connection]]:
    config = NatsConfig(urls=(job.nats_url,))
    made: list[Connection] = []
    try:
        for start in range(0, job.subscribers, _CONNECT_AT_A_TIME):
            names = range(start, min(start + _CONNECT_AT_A_TIME, job.subscribers))
            made += await asyncio.gather(*(Connection.open(config, name=f"listener-{i}") for i in names))
        yield made
    finally:
        await asyncio.gather(*(conn.close() for conn in made))


def _projector(job: Job, metrics: Metrics, **fields: Any) -> ProjectorService:
    return ProjectorService(
        NatsConfig(urls=(job.nats_url,)),
        unwatched(job.database_url),
        ProjectorConfig(**fields),
        registry=metrics,
    )


if __name__ == "__main__":
    roles: dict[str, process.Role] = {
        "drain": drain,
        "projector": project,
        "service": serve,
        "upkeep": keep_up,
        "subscribers": listen,
    }
    sys.exit(process.main(sys.argv[1], roles, patient=frozenset({"projector", "service", "upkeep"})))
