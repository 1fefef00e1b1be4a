"""Servers of the bench: temporary, on free ports of loopback, gone when the block ends."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops.bench import machine
from coord.ops.devstack import postgres
from coord.ops.devstack.nats import NatsOptions, NatsServer
from coord.ops.devstack.stack import DevStack, DevStackConfig
from coord.runtime import assets
from coord.store import editions, migrations
from coord.store.config import DatabaseConfig

PROFILE = "production"
"""Of streams/: what is measured is what is deployed."""


TRUNCATE = """
    SELECT 'TRUNCATE ' || string_agg(format('coord.%I', tablename), ', ')
    FROM pg_tables WHERE schemaname = 'coord' AND tablename <> 'migration'
"""
"""Gives the statement that empties all that a projector writes, whatever tables there are."""


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """A database with coord's schema."""

    config: DatabaseConfig
    edition: str
    pid: int | None
    """Its postmaster's."""
    data_dir: Path | None
    """The stack's folder: how much disk it takes can be counted there; None: the server is another's."""


def settings(config: msgspec.Struct) -> dict[str, Any]:
    """What a report says about a bench's settings and those of its servers; `config` has a field `database`."""
    found = msgspec.structs.asdict(config)
    del found["database"]
    return found | {"streams_profile": PROFILE, "synchronous_commit": "off", "event_loop": "uvloop"}


@asynccontextmanager
async def database(config: DevStackConfig, say: Callable[[str], None]) -> AsyncIterator[Database]:
    """A fresh database, migrated.  Raises `EnvironmentProblem` when there is no server to be had.

    With `config.database_url` a new database on that server, dropped at the end; none of its others is touched.
    """
    if config.database_url:
        async with _own_database(config.database_url) as url:
            say("Migrating a new database on the server given …")
            await asyncio.to_thread(migrations.migrate, DatabaseConfig(url=url))
            edition = await postgres.edition(url)
            yield Database(config=unwatched(url), edition=edition, pid=None, data_dir=None)
        return
    say("Starting the database …")
    async with DevStack(config, say=say) as stack:
        own = unwatched(stack.database_url)
        await asyncio.to_thread(migrations.migrate, own)
        yield Database(config=own, edition=stack.edition, pid=stack.postgres_pid, data_dir=stack.data_dir)


def unwatched(url: str) -> DatabaseConfig:
    """A database's settings without the log of slow statements: it asks for their plans, in the middle of a figure."""
    return DatabaseConfig(url=url, slow_query_ms=0)


@asynccontextmanager
async def _own_database(server_url: str) -> AsyncIterator[str]:
    name = f"coord_bench_{secrets.token_hex(6)}"
    admin: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(server_url)
    try:
        await admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
        finally:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await admin.close()


async def emptied(config: DatabaseConfig) -> None:
    """Empty the tables: checkpoints of one broker's streams would stop the projection of another's."""
    db: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(config.url)
    try:
        await db.execute(await db.fetchval(TRUNCATE))
    finally:
        await db.close()


@asynccontextmanager
async def broker(sync_interval: str | None = None) -> AsyncIterator[NatsServer]:
    """A fresh broker with coord's streams and consumers."""
    with tempfile.TemporaryDirectory(prefix="coord-bench-", ignore_cleanup_errors=True) as folder:
        server = NatsServer(Path(folder), NatsOptions(sync_interval=sync_interval))
        await server.start()
        try:
            async with await Connection.open(NatsConfig(urls=(server.url,)), name="bench-setup") as conn:
                await topology.apply(conn, topology.load(assets.streams_dir(), PROFILE))
            yield server
        finally:
            await server.stop()


async def versions(nats: NatsServer | None, config: DatabaseConfig) -> dict[str, str | None]:
    """What took part, for the report; `nats`: None in a bench without a broker."""
    number = None
    if nats is not None:
        async with await Connection.open(NatsConfig(urls=(nats.url,)), name="bench-setup") as conn:
            found = conn.client.connected_server_version
            number = f"{found.major}.{found.minor}.{found.patch}"
    db: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(config.url)
    try:
        edition = await editions.detect_async(db)
    finally:
        await db.close()
    return machine.versions(nats_server=number, postgres=edition.postgres, timescaledb=edition.timescaledb)
