"""For tests of presence: coord's decider side on one broker, and agents in processes of their own."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import AsyncIterator
from typing import Self

from prometheus_client import CollectorRegistry

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops.devstack.nats import SYSTEM_USER, NatsServer
from coord.runtime import assets
from coord.runtime.service import ServiceGroup
from coord.server.board import BoardService
from coord.server.config import PresenceConfig
from coord.server.decider_service import DeciderService
from coord.server.presence import PresenceBoard, PresenceService
from coord.server.together import deciding
from coord.telemetry.metrics import Metrics
from tests.support import forking
from tests.support.forking import Forked
from tests.support.log import query_service
from tests.support.waiting import until

WORKER = """
import asyncio, sys
import coord

url, name, tenant = sys.argv[1:4]
agent = coord.Agent(name, capabilities={"work": 4}, labels={"region": "eu"})

@agent.task("work")
async def work(seconds: float, ctx: coord.TaskContext) -> str:
    if ctx.claim == 1:  # what is done again, because whoever had it is gone, takes no time
        await asyncio.sleep(seconds)
    return name

async def main():
    async with agent.connect(url, tenant=tenant) as worker:
        print(worker.instance, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


class Process:
    """An agent in a process of its own, to be killed, stopped and continued."""

    def __init__(self, process: Forked, instance: str) -> None:
        self.process = process
        self.instance = instance

    @classmethod
    async def start(cls, url: str, name: str, *, tenant: str = "acme", code: str = WORKER) -> Self:
        """Started, connected, registered."""
        process = await forking.python("-c", code, url, name, tenant)
        return cls(process, (await process.stdout.readline()).decode().strip())

    def signal(self, number: signal.Signals) -> float:
        """Send it, and say when (monotonic)."""
        at = time.monotonic()
        self.process.send_signal(number)
        return at

    async def end(self) -> None:
        """Kill it, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


class Fleet:
    """What `serving` gives."""

    def __init__(self, server: NatsServer, group: ServiceGroup, conn: Connection) -> None:
        self.server = server
        self.group = group
        self.conn = conn
        self.tenant = "acme"
        self.gone: list[tuple[float, str]] = []
        """(monotonic, instance) of the deaths that deciders were told of."""
        self.board.listen(lambda tenant, agent, instance, now, left: self.gone.append((time.monotonic(), instance)))

    @property
    def board(self) -> PresenceBoard:
        """Of presence."""
        return next(m.board for m in self.group.members if isinstance(m, PresenceService))

    @property
    def deciders(self) -> DeciderService:
        """The service."""
        return next(m for m in self.group.members if isinstance(m, DeciderService))

    @property
    def boards(self) -> BoardService:
        """Of capabilities."""
        return next(m for m in self.group.members if isinstance(m, BoardService))

    def died_at(self, instance: str) -> float | None:
        """When its death was told, first."""
        return next((at for at, who in self.gone if who == instance), None)


@contextlib.asynccontextmanager
async def serving(server: NatsServer, *, system: bool = True, settle_s: float = 0.5) -> AsyncIterator[Fleet]:
    """Streams, presence, deciders, board and query service on a broker."""
    nats = NatsConfig(urls=(server.url,))
    user = SYSTEM_USER if system else None
    presence = PresenceConfig(system_user=user, system_password=user, settle_s=settle_s)
    registry = Metrics(CollectorRegistry())
    members = deciding(nats, presence, registry=registry)
    async with await Connection.open(nats, name="fleet") as conn, query_service(server.url):
        await topology.apply(conn, topology.load(assets.streams_dir(), "development"))
        async with ServiceGroup("fleet", members, registry=registry) as group:
            await group.wait_ready(100)
            fleet = Fleet(server, group, conn)
            if system:
                await until(lambda: fleet.board.hears_deaths)
            yield fleet
