"""The servers of a scenario: a broker, a database with coord's schema, projectors; all to be killed at will."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg

from coord.bus.connection import Connection, NatsConfig
from coord.ops.devstack import DevStackConfig, PostgresOptions, install, places
from coord.ops.devstack.nats import NatsOptions, NatsServer
from coord.ops.devstack.postgres import PostgresServer
from coord.projector.config import ProjectorConfig
from coord.store import migrations
from coord.store.config import DatabaseConfig
from tests.support import crash
from tests.support.crash import ProjectorProcess
from tests.support.planted import Bug
from tests.support.streams import apply_topology
from tests.support.waiting import until
from tests.support.workload import connect

LOSES_MUCH = {
    "wal_writer_delay": "1s",
    "wal_writer_flush_after": "1GB",
    "wal_buffers": "64MB",
    "synchronous_commit": "off",
}
"""A killed PostgreSQL loses up to three seconds of commits (its promise is thrice the writer's delay): the
projector must notice, and project them again."""


class Stack:
    """One broker and one database; `async with Stack.open(folder) as stack`."""

    def __init__(self, home: Path, nats: NatsServer, postgres: PostgresServer) -> None:
        self.home = home
        self.nats = nats
        self.postgres = postgres
        self._projectors = contextlib.AsyncExitStack()

    @property
    def nats_url(self) -> str:
        return self.nats.url

    @property
    def database_url(self) -> str:
        return self.postgres.url()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        home: Path,
        *,
        nats_folder: Path | None = None,
        postgres_folder: Path | None = None,
        settings: dict[str, str] | None = None,
        shared_buffers: str = "256MB",
        nats_extra: str = "",
        **streams: dict[str, Any],
    ) -> AsyncIterator[Stack]:
        """Start both and make schema, streams and consumers; `EVENTS={…}` overrides fields of a stream."""
        nats = NatsServer(nats_folder or home / "nats", NatsOptions(extra=nats_extra))
        async with database(postgres_folder or home / "postgres", settings, shared_buffers) as postgres:
            stack = cls(home, nats, postgres)
            try:
                await nats.start()
                await stack.streams(**streams)
                yield stack
            finally:
                await stack._projectors.aclose()
                await nats.stop()

    async def streams(self, **streams: dict[str, Any]) -> None:
        """Make them; again, those that the broker's memory has forgotten."""
        async with await Connection.open(NatsConfig(urls=(self.nats.url,)), name="soak-setup") as conn:
            await apply_topology(conn, "production", **streams)

    async def projector(self, *, bug: Bug | None = None, **fields: Any) -> ProjectorProcess:
        """Start one more projector, in a process of its own; it ends with the stack."""
        job = crash.Job(self.nats_url, self.database_url, ProjectorConfig(**fields), bug=bug)
        running = crash.projector_process(job, self.home / "projector.log")
        return await self._projectors.enter_async_context(running)

    async def database(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection, waiting for a database that is just coming back."""
        return await connect(self.database_url)


@contextlib.asynccontextmanager
async def database(
    home: Path, settings: dict[str, str] | None = None, shared_buffers: str = "256MB"
) -> AsyncIterator[PostgresServer]:
    """A database server with coord's schema, safe on disk; it ends at once."""
    account = places.database_account()
    config = DevStackConfig.from_env(os.environ)
    cache = places.cache_dir(account, asked=config.cache_dir)
    provided = await asyncio.to_thread(install.provide, config.source, cache, account, print)
    options = PostgresOptions(shared_buffers=shared_buffers, settings=settings or {})
    postgres = PostgresServer(home, provided, account, options)
    try:
        await postgres.start()
        await postgres.ensure_database()
        await asyncio.to_thread(migrations.migrate, DatabaseConfig(url=postgres.url()))
        db = await asyncpg.connect(postgres.url())
        await db.execute("CHECKPOINT")
        await db.close()
        yield postgres
    finally:
        await postgres.stop(immediate=True)


_SESSIONS = """
SELECT pid, client_port, state, wait_event, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS s,
       pg_blocking_pids(pid) AS blockers, left(regexp_replace(query, '\\s+', ' ', 'g'), 120) AS query
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND xact_start IS NOT NULL
AND pid <> pg_backend_pid()
"""


class Checkpoints:
    """Asks the database where each partition is, over a connection that may break at any time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._db: asyncpg.Connection[asyncpg.Record] | None = None

    async def read(self) -> dict[tuple[str, int], int] | None:
        """(stream, partition) → sequence; None while the database does not answer."""
        try:
            if self._db is None or self._db.is_closed():
                self._db = await asyncpg.connect(self._url, timeout=10)
            rows = await self._db.fetch("SELECT stream, partition, seq FROM coord.checkpoint", timeout=10)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError):
            self.close()
            return None
        return {(r["stream"], r["partition"]): r["seq"] for r in rows}

    async def sessions(self) -> list[str]:
        """Who is in a transaction, for how long, and whom each waits for: what one wants to know when it is late."""
        if self._db is None:
            return []
        rows = await self._db.fetch(_SESSIONS, timeout=20)
        return [
            f"{r['pid']} ({r['client_port']}) {r['state']} {r['wait_event']} for {r['s']:.1f} s"
            f" behind {r['blockers']}: {r['query']}"
            for r in rows
        ]

    def close(self) -> None:
        """Let go of the connection; the next `read` makes another."""
        db, self._db = self._db, None
        if db is not None:
            db.terminate()


def behind(checkpoints: Mapping[tuple[str, int], int], goal: Mapping[tuple[str, int], int]) -> list[tuple[str, int]]:
    """Partitions whose checkpoint has not reached the goal."""
    return [slot for slot, seq in goal.items() if checkpoints.get(slot, 0) < seq]


async def settled(stack: Stack, goal: dict[tuple[str, int], int]) -> None:
    """The tables have all up to the goal; fails after two minutes."""
    checkpoints = Checkpoints(stack.database_url)

    async def has_all() -> bool:
        at = await checkpoints.read()
        return at is not None and not behind(at, goal)

    await until(has_all, 120)
    checkpoints.close()
