"""The log for tests of readers and subscribers: streams, stated facts, a query service."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import msgspec
from prometheus_client import CollectorRegistry

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.projector.service import ProjectorService
from coord.query.config import QueryConfig
from coord.query.http import QueryHttp
from coord.query.service import QueryService
from coord.runtime import assets
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.store.reading import Reads
from coord.telemetry.metrics import Metrics
from coord.wire import headers as wire_headers
from coord.wire.subjects import FactSubject
from tests.support.projecting import projector_service
from tests.support.streams import apply_topology
from tests.support.waiting import until


class Log:
    """A connection to a broker that has coord's streams, and a tenant of the test's own."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self.conn = conn
        self.tenant = tenant
        self._numbers = itertools.count()

    def subject(
        self, kind: str = "file", event: str = "scanned", id: str = "f1", *, agent: str = "a1", key: str | None = None
    ) -> str:
        name, *detail = event.split(".")
        return FactSubject(self.tenant, agent, key or id, kind, id, name, tuple(detail)).publish

    async def state(
        self,
        data: Any = None,
        *,
        subject: str | None = None,
        headers: dict[str, str] | bytes | None = None,
        body: bytes | None = None,
        **where: Any,
    ) -> int:
        """Publish one fact and return its sequence in the log."""
        block = wire_headers.encode(headers) if isinstance(headers, dict) else headers
        body = msgspec.json.encode(data) if body is None else body
        answer = await self.conn.request(subject or self.subject(**where), body, headers=block)
        ack = msgspec.json.decode(answer.data)
        assert "error" not in ack, ack
        return int(ack["seq"])

    async def flood(self, count: int, *, first: int = 0, size: int = 0, **where: Any) -> None:
        """Publish `count` facts {"n": first…} without waiting for acks in between."""
        subject = self.subject(**where)
        for n in range(first, first + count):
            self.conn.publish(subject, msgspec.json.encode({"n": n, "pad": "x" * size} if size else {"n": n}))
            if n % 500 == 499:
                await self.conn.flush()
        await self.conn.flush()


async def apply_streams(conn: Connection) -> None:
    """EVENTS and the other streams as streams/ defines them; without consumers."""
    loaded = topology.load(assets.streams_dir(), "development")
    await topology.apply(conn, topology.Topology(loaded.streams))


@contextlib.asynccontextmanager
async def open_log(url: str, *, tenant: str | None = None) -> AsyncIterator[Log]:
    """Connect, make the streams, and choose a tenant that no other test uses."""
    async with await Connection.open(NatsConfig(urls=(url,)), name="test") as conn:
        await apply_streams(conn)
        yield Log(conn, tenant or f"t{secrets.token_hex(4)}")


ASKING: Final = "asking"
"""What the connections of `query_service` call themselves."""


@contextlib.asynccontextmanager
async def query_service(
    url: str, config: QueryConfig | None = None, *, database_url: str | None = None, http: QueryHttp | None = None
) -> AsyncIterator[QueryService]:
    """A query service on a connection of its own, with metrics of its own; without a database as it can be."""
    registry = Metrics(CollectorRegistry())
    database = DatabaseConfig(url=database_url, pool_min=0, application_name=ASKING) if database_url else None
    pool = Pool(database, metrics=registry) if database else None
    tables = Reads(Pool(database, metrics=registry)) if database else None
    async with (
        await Connection.open(NatsConfig(urls=(url,)), name="query", wait=True) as conn,
        QueryService(conn, config, pool=pool, tables=tables, http=http, registry=registry) as service,
    ):
        yield service


@contextlib.asynccontextmanager
async def projector(url: str, database_url: str) -> AsyncIterator[ProjectorService]:
    """The consumers, and a projector on a migrated database."""
    async with await Connection.open(NatsConfig(urls=(url,)), name="apply") as conn:
        await apply_topology(conn)
    async with projector_service(url, database_url) as service:
        await service.wait_ready(100)
        yield service


async def rows(database_url: str, query: str, *arguments: Any, count: int, timeout_s: float = 100) -> list[Any]:
    """What `query` returns once it returns `count` rows."""
    database = await asyncpg.connect(database_url)
    try:

        async def enough() -> list[Any] | None:
            found: list[Any] = await database.fetch(query, *arguments)
            return found if len(found) >= count else None

        found: list[Any] = await until(enough, timeout_s)
    finally:
        await database.close()
    assert len(found) == count
    return found
