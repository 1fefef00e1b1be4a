"""What the publisher's and the projector's tests share; other files here have `conn` and `db` of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from coord import limits
from coord.bus.connection import Connection, NatsConfig
from coord.ops.devstack.nats import NatsServer
from coord.store.pool import Pool
from tests.support.cluster import Database
from tests.support.publishing import Observer, observer
from tests.support.store import pool_of
from tests.support.streams import apply_topology
from tests.support.tasks import Fleet, new_tenant, services


@pytest.fixture
async def seen(nats_server) -> AsyncIterator[Observer]:
    """What the streams of the shared server hold."""
    async with observer(nats_server.url) as seen:
        await seen.make_streams()
        yield seen


@pytest.fixture
async def nats(start_nats) -> NatsServer:
    """A nats-server of this test's own."""
    server: NatsServer = await start_nats()
    return server


@pytest.fixture
async def conn(nats) -> AsyncIterator[Connection]:
    """A connection to it, with coord's streams there."""
    async with await Connection.open(NatsConfig(urls=(nats.url,)), name="test") as connection:
        await apply_topology(connection)
        yield connection


@pytest.fixture
async def db(migrated_database) -> AsyncIterator[asyncpg.Connection]:
    """A connection to this test's database."""
    connection = await asyncpg.connect(migrated_database.url)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(migrated_database: Database) -> AsyncIterator[Pool]:
    """A pool of connections to it, as the projector has them."""
    async with pool_of(migrated_database.url, pool_max=10) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(nats_server: NatsServer) -> AsyncIterator[Fleet]:
    """All services of `coord serve` for one module's tests, whose loop has the module's scope too."""
    async with services(nats_server.url) as fleet:
        yield fleet


@pytest.fixture
def unsuspecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is suspect or gone because his heartbeats are late: on a busy machine they are, by seconds."""
    monkeypatch.setattr(limits, "SUSPECT_AFTER", 30.0)
    monkeypatch.setattr(limits, "GONE_AFTER", 50.0)


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    """The module's services, and a tenant of this test's own."""
    running.tenant = new_tenant()
    return running
