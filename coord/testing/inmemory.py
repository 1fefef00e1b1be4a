"""All of coord in one process, without servers: for the tests of whoever writes agents.

::

    async with coord.testing.InMemoryCoord() as fleet:
        async with fleet.work(agent), fleet.connect() as c:
            handle = await c.submit("summarize", Doc("to be or not"))
            assert await handle.result() == {"words": 4}

What runs is what runs in production: `coord.Agent`, `coord.connect`, the deciders, presence and the
query service, each on a connection of its own.  The broker is a server in memory
(`coord.testing.memory`), and there is no database: tables and views are not there, nor what asks them.

On a loop with virtual time (`coord.testing.virtual`) all waiting takes no time.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.client.agent import Agent
from coord.client.connect import Connecting, Coord, connect
from coord.client.instance import connection_name
from coord.client.worker import Worker
from coord.query.service import QueryService
from coord.runtime import assets, clock
from coord.server import together
from coord.server.config import PresenceConfig
from coord.telemetry.metrics import Metrics
from coord.testing import virtual
from coord.testing.memory.server import SYSTEM_USER, MemoryServer
from coord.wire import subjects
from coord.wire.envelope import StoredFact, decode_message
from coord.wire.times import from_unix_us

_READY_S: Final = 60.0
_SETTLE_S: Final = 2 * limits.DECIDER_TICK_S
"""After a step of a leap: deciders have looked at the time, and what follows has been stated."""


class InMemoryCoord:
    """See the module.  Use it with ``async with``; what was connected in it has to be closed before."""

    def __init__(self, tenant: str = "test") -> None:
        """`tenant`: of all that connects without naming one."""
        self.tenant = tenant
        self.server = MemoryServer()
        """The broker: `stop` and `start` it to see what its absence does."""
        self._stack = contextlib.AsyncExitStack()
        self._registry = Metrics(CollectorRegistry())

    @property
    def url(self) -> str:
        """What `coord.connect`, `Agent.connect` and `NatsConfig` take; good in this process alone."""
        return self.server.url

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(virtual.clocks())
            self.server.start()
            stack.callback(self.server.close)
            nats = NatsConfig(urls=(self.url,), reconnect_wait_s=0.05)
            conn = await stack.enter_async_context(await Connection.open(nats, name="coord-testing"))
            await topology.apply(conn, _topology())
            system = PresenceConfig(system_user=SYSTEM_USER, system_password=SYSTEM_USER)
            services = [
                QueryService(conn, registry=self._registry),
                *together.deciding(nats, system, registry=self._registry),
            ]
            for service in services:
                await stack.enter_async_context(service)
            for service in services:
                await service.wait_ready(_READY_S)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- agents ------------------------------------------------------------------------------

    def connect(self, agent: str = "tester", **options: Any) -> Connecting:
        """`coord.connect`, here: ``async with fleet.connect("boss") as c``."""
        options.setdefault("tenant", self.tenant)
        options.setdefault("metrics", Metrics(CollectorRegistry()))
        return connect(self.url, agent=agent, **options)

    @contextlib.asynccontextmanager
    async def work(self, agent: Agent, **options: Any) -> AsyncIterator[Worker]:
        """Let an agent work while the block runs; leaving it drains.  As often as you like for one agent."""
        async with self.connect(agent.name, **options) as c:
            yield await agent.start(c)

    async def crash(self, who: Coord | Worker) -> None:
        """Let its process die, as ``kill -9`` does: its connection is cut, and it is never let in again.

        Nothing that it still says is heard.  Its handlers are cancelled: their ``finally`` runs, as it would
        not in a process that is killed.
        """
        c = who.coord if isinstance(who, Worker) else who
        self.server.cut(connection_name(c.tenant, c.agent, c.instance), for_good=True)
        await c.connection.close()
        for worker in c.workers:
            await worker.close()

    async def cut(self, who: Coord | Worker) -> None:
        """Cut its connection once, as a network does; it comes back by itself."""
        c = who.coord if isinstance(who, Worker) else who
        self.server.cut(connection_name(c.tenant, c.agent, c.instance))
        await asyncio.sleep(0)

    async def restart_broker(self, away_s: float = 1.0) -> None:
        """Take the broker away for so long; what it acknowledged it still knows."""
        self.server.stop()
        await asyncio.sleep(away_s)
        self.server.start()

    # --- time --------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time here, aware, in UTC: what to say where coord is told a time."""
        return clock.utc_now()

    async def leap(self, *, days: float = 0, hours: float = 0, minutes: float = 0, step_s: float | None = None) -> None:
        """Let much time pass at little cost, as if all machines were suspended for most of it.

        The wall clock goes on, and with it what is due by it: schedules, sleeps, deadlines, retries with a delay.
        Monotonic clocks stand still meanwhile: no heartbeat is missed, no lease ends, no timer of the event loop
        fires.  What the broker has scheduled happens in its order and at its time; what deciders decide by the
        clock happens at most `step_s` late (default: a fiftieth of the leap, at least a minute).

        ``asyncio.sleep`` leaves nothing out, and takes 4 to 10 ms for a second; a leap about half of that for a step.
        Raises `SettingsError` on a loop without virtual time.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, virtual.VirtualLoop):
            raise errors.SettingsError("only virtual time can leap: use coord.testing.run, or coord.testing.fixtures")
        total_s = (days * 24 + hours) * 3600 + minutes * 60
        end = clock.unix() + total_s
        step_s = step_s or max(60.0, total_s / 50)
        await asyncio.sleep(_SETTLE_S)  # what was asked for a moment ago is armed
        while (now := clock.unix()) < end:
            due = self.server.jetstream.next_due()
            to = min(end, now + step_s, end if due is None else max(due, now))
            loop.leap(max(0.0, to - now))
            self.server.jetstream.leapt()
            await asyncio.sleep(_SETTLE_S)

    # --- the log -----------------------------------------------------------------------------

    def facts(
        self,
        kind: str | None = None,
        id: str | None = None,
        event: str | None = None,
        *,
        key: str | None = None,
    ) -> list[StoredFact]:
        """What the log holds of this tenant, in its order; None matches all."""
        stream = self.server.jetstream.streams[subjects.EVENTS]
        filters = subjects.log_filters(self.tenant, key=key, kind=kind, id=id, event=event)
        found: list[StoredFact] = []
        for seq in sorted({seq for one in filters for seq in stream.index.all_from(one, 1)}):
            message = stream.messages[seq]
            stored_at = from_unix_us(message.stored_ns // 1000)
            items = decode_message(message.subject, message.headers, message.body, seq, stored_at)
            found += [item for item in items if isinstance(item, StoredFact)]
        return found

    async def until_fact(self, kind: str, event: str, *, timeout_s: float = 60.0, **where: Any) -> StoredFact:
        """The first such fact, as soon as the log has it; raises `DeadlineExceeded`."""
        stream = self.server.jetstream.streams[subjects.EVENTS]
        news = asyncio.Event()

        def stored(_: Any) -> None:
            news.set()

        stream.stored.append(stored)
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := self.facts(kind, event=event, **where)):
                    await news.wait()
                    news.clear()
            return found[0]
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"no {kind}.{event} within {timeout_s:g} s", **where) from exc
        finally:
            stream.stored.remove(stored)


def _topology() -> topology.Topology:
    """The streams, which forget nothing, and the consumers of what runs here."""
    whole = topology.load(assets.streams_dir(), "development").with_fields(subjects.EVENTS, max_age=0)
    return topology.Topology(tuple(s for s in whole.specs if not (s.consumer or "").startswith("projector")))
