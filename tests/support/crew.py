"""Processes that decide about tasks and run them, to be killed at will: ``python -m tests.support.crew JOB``.

`server` decides, hears of deaths and answers questions about the log, as ``coord serve decider`` and
``coord serve query`` do; `worker` runs tasks.  A worker writes into its file when each execution begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

import coord
from coord import limits
from tests.support import programs
from tests.support.forking import Forked

BEGAN = struct.Struct("<qI")
"""Nanoseconds since 1970, and how many bytes of ``key/id`` follow."""
REJECT_EVERY = 97
FAIL_EVERY = 41
"""Of tasks, by number: one is rejected, one fails at its first attempt."""


class Job(msgspec.Struct, frozen=True):
    """What a process of the crew is to be."""

    urls: tuple[str, ...]
    tenant: str
    folder: str
    """Where workers write down what they begin."""
    role: Literal["server", "worker"] = "worker"
    name: str = ""
    database: str = ""
    """A server's, for what was used before the log's window; none: the log is all there is."""
    everything: bool = False
    """A server's: it is all of coord, its projector, too."""
    slots: int = 600
    """A worker's, for tasks; a third of that for the steps of workflows."""
    limits: dict[str, int | float] = {}
    """Bounds in the place of those in `coord.limits`."""


class Work(msgspec.Struct, frozen=True):
    """Input of a task or of a step."""

    n: int
    hold_s: float = 0.0


class Member(programs.Program):
    """The test's half."""

    def __init__(self, job: Job, process: Forked) -> None:
        super().__init__(process)
        self.job = job
        self._ready = False
        self.given_up = False
        """It found no broker, or one that went away while it began; whoever supervises it starts it again."""

    def hear(self, line: bytes) -> None:
        self._ready |= line == b"ready\n"
        self.given_up |= line == b"no broker\n"

    async def ready(self, timeout_s: float = 100) -> bool:
        """Wait until it is; False when it has `given_up`."""
        await self._until(lambda: self._ready, timeout_s)
        assert self._ready or self.given_up, f"{self.job.name} ended before it was ready"
        return self._ready

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


async def start(job: Job, log: Path) -> Member:
    """Started; not ready yet."""
    return Member(job, await programs.start("tests.support.crew", job, log))


def began(folder: Path) -> Iterator[tuple[str, int]]:
    """(``key/id``, nanoseconds since 1970) of every execution that any worker has begun."""
    for path in folder.glob("*.began"):
        data, at = path.read_bytes(), 0
        while at + BEGAN.size <= len(data):
            when, length = BEGAN.unpack_from(data, at)
            at += BEGAN.size
            yield data[at : at + length].decode(), when
            at += length


# --- the program -------------------------------------------------------------------------


async def _serve(job: Job) -> None:
    from coord.bus.connection import NatsConfig
    from coord.ops import serve
    from coord.ops.devstack.nats import SYSTEM_USER
    from coord.ops.settings import ServiceConfig, Settings
    from coord.query.service import QueryService
    from coord.runtime.http_config import HttpConfig
    from coord.runtime.service import Service, ServiceGroup
    from coord.server.config import PresenceConfig
    from coord.store.config import DatabaseConfig
    from coord.telemetry import logs, metrics

    settings = Settings(
        nats=NatsConfig(urls=job.urls, ping_interval_s=1.0),
        database=DatabaseConfig(url=job.database) if job.database else DatabaseConfig(),
        presence=PresenceConfig(system_user=SYSTEM_USER, system_password=SYSTEM_USER),
        service=ServiceConfig(stats_every_s=0.0),
        http=HttpConfig(enabled=False),
    )
    services: list[Service]
    if job.everything:
        logs.configure(logs.LogConfig(), stream=sys.stderr)  # what it says of its readers is counted
        services = [serve.services(settings, registry=metrics.default())]
    else:
        services = [serve.services(settings, serve.What.DECIDER, registry=metrics.default())]
        if job.database:
            services.append(serve.services(settings, serve.What.QUERY, registry=metrics.default()))
        else:
            services.append(serve.OnConnection("query", settings.nats, QueryService, registry=metrics.default()))
    async with ServiceGroup("crew", services, registry=metrics.default()) as group:
        await group.wait_ready(100)
        print("ready", flush=True)
        await asyncio.Event().wait()


async def _work(job: Job) -> None:
    agent = coord.Agent(job.name, capabilities={"hold": job.slots, "step": max(1, job.slots // 3), "probe": 32})
    file = os.open(Path(job.folder) / f"{job.name}-{os.getpid()}.began", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(ctx: coord.TaskContext) -> None:
        name = f"{ctx.key}/{ctx.task_id}".encode()
        os.write(file, BEGAN.pack(time.time_ns(), len(name)) + name)

    @agent.task("hold", retries=3)
    async def hold(work: Work, ctx: coord.TaskContext) -> int:
        note(ctx)
        await ctx.run("half", asyncio.sleep, work.hold_s / 2)
        await asyncio.sleep(work.hold_s / 2)
        if work.n % REJECT_EVERY == 0:
            raise coord.Reject("as its number says")
        if work.n % FAIL_EVERY == 0 and ctx.attempt == 1:
            raise RuntimeError("as its number says")
        return work.n * work.n

    @agent.task("step", retries=3)
    async def step(work: Work, ctx: coord.TaskContext) -> int:
        note(ctx)
        await asyncio.sleep(work.hold_s)
        return work.n + 1

    @agent.task("probe")
    async def probe(n: int, ctx: coord.TaskContext) -> int:
        note(ctx)
        return n

    config = coord.NatsConfig(urls=job.urls, ping_interval_s=1.0, reconnect_wait_s=0.1)
    try:
        async with agent.connect(config, tenant=job.tenant):
            print("ready", flush=True)
            await asyncio.Event().wait()
    except (coord.errors.BusError, coord.errors.DeadlineExceeded) as exc:
        print(f"{job.name}: {exc.code}: {exc}", file=sys.stderr)
        print("no broker", flush=True)


async def _until_alone(job: Job) -> None:
    """Until whoever started us is gone."""
    for name, value in job.limits.items():
        assert hasattr(limits, name)
        setattr(limits, name, value)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    work = asyncio.create_task(_serve(job) if job.role == "server" else _work(job))
    alone = asyncio.create_task(reader.read())
    await asyncio.wait({work, alone}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_until_alone(msgspec.json.decode(sys.argv[1], type=Job)))
