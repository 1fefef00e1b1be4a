"""For tests of task workers: everything of coord that tasks need, in this process, on one broker."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import Connecting, connect
from coord.ops.devstack.nats import SYSTEM_USER
from coord.runtime import assets
from coord.server.config import PresenceConfig
from coord.server.decider_service import DeciderService
from coord.server.presence import PresenceService
from coord.telemetry.metrics import Metrics
from tests.support.log import query_service


class Fleet:
    """A broker with coord's services, and a tenant of the test's own."""

    def __init__(self, url: str, conn: Connection, deciders: DeciderService, presence: PresenceService) -> None:
        self.url = url
        self.conn = conn
        self.deciders = deciders
        self.presence = presence
        self.tenant = new_tenant()

    def client(self, agent: str = "boss", **options: Any) -> Connecting:
        """`coord.connect` with metrics of its own."""
        options.setdefault("tenant", self.tenant)
        return connect(self.url, agent=agent, metrics=Metrics(CollectorRegistry()), **options)


def new_tenant() -> str:
    return f"t{secrets.token_hex(4)}"


@contextlib.asynccontextmanager
async def services(url: str, *, database_url: str | None = None) -> AsyncIterator[Fleet]:
    """Streams and consumers, the query service, presence and the deciders, ready."""
    config = NatsConfig(urls=(url,), reconnect_wait_s=0.05)
    async with await Connection.open(config, name="test") as conn:
        await topology.apply(conn, topology.load(assets.streams_dir(), "development"))
        system = PresenceConfig(system_user=SYSTEM_USER, system_password=SYSTEM_USER)
        presence = PresenceService(config, system, registry=Metrics(CollectorRegistry()))
        deciders = DeciderService(config, presence=presence.board.table, registry=Metrics(CollectorRegistry()))
        unlisten = presence.board.listen(deciders.gone)
        async with query_service(url, database_url=database_url), presence, deciders:
            await deciders.wait_ready(100)
            yield Fleet(url, conn, deciders, presence)
        unlisten()
