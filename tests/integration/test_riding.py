"""Deciders that are fed by the projector's consumer, on real servers: they do not notice when that ends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus.riding import Meeting, Ride
from coord.ops import stats
from coord.projector.config import ProjectorConfig
from coord.projector.service import ProjectorService
from coord.server.decider_service import DeciderService
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from tests.support.waiting import until

pytestmark = pytest.mark.slow

KEYS = {subjects.partition(key): key for key in map(str, range(200))}
"""A key of each partition."""


class Both:
    """Projector and deciders of one process, and what they were told."""

    def __init__(self, conn, db, projector: ProjectorService, deciders: DeciderService) -> None:
        self.conn = conn
        self.db = db
        self.projector = projector
        self.deciders = deciders
        self.said = 0

    async def say(self, times: int = 1) -> None:
        """A task of each partition."""
        for _ in range(times):
            for key in KEYS.values():
                self.said += 1
                subject = f"coord.ev.acme.a1.{key}.task.t{self.said}.submitted.work.normal"
                self.conn.publish(subject, b'{"instance": "a1-1"}')
        await self.conn.flush()

    @property
    def held(self) -> int:
        """Tasks that deciders know."""
        return sum(d.open_count() for d in self.deciders.deciders() if d.name == "tasks")

    async def have_all(self) -> None:
        """All of it is folded, and in the table exactly once."""
        await until(lambda: self.held == self.said)
        query = "SELECT count(*) FROM coord.event WHERE kind = 'task' AND event = 'submitted'"
        await until(lambda: self._has(query))
        assert await self.db.fetchval(query) == self.said

    async def _has(self, query: str) -> bool:
        return bool(await self.db.fetchval(query) >= self.said)

    @property
    def riding(self) -> bool:
        shared = self.deciders._shared
        return shared is not None and isinstance(shared._consumer, Ride) and not shared._consumer.is_over

    async def ride(self) -> None:
        async def rides() -> bool:
            if not self.riding:
                await self.say()  # a pin comes with a message
            return self.riding

        await until(rides, every_s=0.05)


@pytest.fixture
async def both(nats, migrated_database, conn, db, monkeypatch) -> AsyncIterator[Both]:
    monkeypatch.setattr(limits, "REPLICA_BEAT_S", 0.05)
    monkeypatch.setattr(limits, "PULL_EXPIRES_S", 0.3)
    meeting = Meeting()
    metrics = [Metrics(CollectorRegistry()) for _ in range(2)]
    database = DatabaseConfig(url=migrated_database.url, pool_min=1, pool_max=6)
    config = ProjectorConfig(streams=("EVENTS",))
    async with contextlib.AsyncExitStack() as stack:
        projector = ProjectorService(conn.config, database, config, meeting=meeting, registry=metrics[0])
        deciders = DeciderService(conn.config, meeting=meeting, registry=metrics[1])
        for service in (projector, deciders):
            await stack.enter_async_context(service)
        assert deciders._shared is not None
        for gathering in (projector._shared[0]._gathering, deciders._shared._gathering, deciders._shared._rides):
            gathering.policy = msgspec.structs.replace(gathering.policy, pause_s=0.1, pause_max_s=0.2)
        yield Both(conn, db, projector, deciders)


async def delivered(both: Both) -> int:
    """By all of the log's consumers, ever."""
    listed = await both.conn.api("CONSUMER.LIST.EVENTS")
    return sum(c["delivered"]["consumer_seq"] for c in listed["consumers"])


async def test_a_fact_is_delivered_once_until_its_consumer_vanishes(both: Both) -> None:
    await both.ride()
    await both.have_all()
    before, said = await delivered(both), both.said
    await both.say(3)
    await both.have_all()
    if both.riding:  # a machine that stands still for seconds ends it
        assert await delivered(both) - before < 2 * (both.said - said)
        listed = await both.conn.api("CONSUMER.LIST.EVENTS")
        pins = [c["num_pending"] for c in listed["consumers"] if c["name"].startswith("decider-")]
        assert sum(pins) > 0, "nothing was delivered by those"
        shown = {c.name: c.pending for c in await stats.consumers(both.conn, "EVENTS")}
        if both.riding:
            assert shown["decider"] == 0
    listed = await both.conn.api("CONSUMER.NAMES.EVENTS")
    for name in [n for n in listed["consumers"] if n.startswith("projector-all-")]:
        await both.conn.api(f"CONSUMER.DELETE.EVENTS.{name}")
    await both.say(3)
    await both.have_all()
    await both.ride()
    await both.projector.drain()
    await both.say(3)
    await until(lambda: both.held == both.said)
