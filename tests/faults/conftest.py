"""What the fault tests share: servers that may be killed, and projectors to kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus.connection import Connection, NatsConfig
from coord.ops.devstack import DevStackConfig, PostgresOptions, install, places
from coord.ops.devstack.nats import NatsServer
from coord.ops.devstack.postgres import PostgresServer
from coord.projector.config import ProjectorConfig
from coord.projector.service import ProjectorService
from coord.store import migrations
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from tests.support import cluster as clusters
from tests.support.cluster import Cluster, Database
from tests.support.crash import Crash, Job, ProjectorProcess, projector_process
from tests.support.servers import run_sync
from tests.support.streams import apply_topology

PATIENT = {"idle_in_transaction_s": 10.0}
"""Of a projector in the test's own process, which is not frozen by anybody but a busy machine: in the two seconds of
production that would end one transaction after the other, and nothing would ever be written."""
StartProcess = Callable[..., Awaitable[ProjectorProcess]]
StartProjector = Callable[..., Awaitable[ProjectorService]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is a fault test; what is seeded by rounds takes part in `make faults`."""
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:
        if str(item.path).startswith(here):  # the parents of six thousand paths are half a second of CPU
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.slow)
            if "rounds" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.soak)


# --- the broker --------------------------------------------------------------------------


@pytest.fixture
async def nats(start_nats) -> NatsServer:
    """A nats-server of this test's own, with coord's streams."""
    server: NatsServer = await start_nats()
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="topology") as conn:
        await apply_topology(conn)
    return server


@pytest.fixture
async def conn(nats) -> AsyncIterator[Connection]:
    """A connection to it that survives restarts."""
    config = NatsConfig(urls=(nats.url,), ping_interval_s=1.0)
    async with await Connection.open(config, name="test", wait=True) as connection:
        yield connection


# --- a cluster that may crash ------------------------------------------------------------


@pytest.fixture(scope="session")
def crash_server() -> Iterator[PostgresServer]:
    """A PostgreSQL of this worker's own, made to lose as much as possible when it is killed.

    Nothing writes WAL to the operating system but the WAL writer every 10 s and commits that
    insist (the projector's do not): what was committed since then is gone with the processes.
    """
    account = places.database_account()
    config = DevStackConfig.from_env(os.environ)
    cache = places.cache_dir(account, asked=config.cache_dir)
    provided = install.provide(config.source, cache, account, print)
    run_dir = Path(os.environ[clusters.RUN_DIR])
    home = places.database_home(run_dir / f"crash-{os.getpid()}", account, f"crash-{os.getpid()}-{run_dir.name}")
    settings = {
        "wal_writer_delay": "10s",
        "wal_writer_flush_after": "1GB",
        "wal_buffers": "64MB",
        "synchronous_commit": "off",
        "autovacuum": "off",
        "checkpoint_timeout": "1h",
        "max_connections": "100",
    }
    server = PostgresServer(home, provided, account, PostgresOptions(shared_buffers="96MB", settings=settings))
    run_sync(server.start())
    yield server
    run_sync(server.stop(immediate=True))


@pytest.fixture
async def crash_database(crash_server) -> AsyncIterator[Database]:
    """A fresh database with coord's schema in the cluster that may crash."""
    await crash_server.start()
    cluster = Cluster(
        admin_url=crash_server.url("postgres"),
        edition="apache" if crash_server.install.timescaledb else "plain",
        note="may crash",
    )
    template = await clusters.template(cluster, f"crash_{os.getpid()}", _migrate)
    async with clusters.clone(cluster, template) as made:
        await _flush(made.url)  # or a crash would take the database itself
        yield made
        await crash_server.start()


async def _migrate(database: Database) -> None:
    await asyncio.to_thread(migrations.migrate, DatabaseConfig(url=database.url))


async def _flush(url: str) -> None:
    db = await asyncpg.connect(url)
    await db.execute("CHECKPOINT")
    await db.close()


# --- projectors --------------------------------------------------------------------------


@pytest.fixture
async def process(nats, tmp_path) -> AsyncIterator[StartProcess]:
    """`projector = await process(database_url, crash=Crash(…), **ProjectorConfig fields)`."""
    log = tmp_path / "projector.log"
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            database_url: str, *, nats_url: str | None = None, crash: Crash | None = None, **fields: Any
        ) -> ProjectorProcess:
            fields.setdefault("idle_checkpoint_s", 1.0)
            fields.setdefault("retry_max_s", 0.5)
            job = Job(nats_url or nats.url, database_url, ProjectorConfig(**fields), crash)
            return await stack.enter_async_context(projector_process(job, log))

        yield start
    if log.exists():
        print(log.read_text()[-6000:])


@pytest.fixture
async def projector(nats) -> AsyncIterator[StartProjector]:
    """`service = await projector(database_url, **ProjectorConfig fields)`: one in this process."""
    started: list[ProjectorService] = []

    async def start(
        database_url: str,
        *,
        nats_url: str | None = None,
        wait: bool = True,
        database: dict[str, Any] | None = None,
        **fields: Any,
    ) -> ProjectorService:
        fields.setdefault("idle_checkpoint_s", 1.0)
        fields.setdefault("retry_max_s", 0.5)
        service = ProjectorService(
            NatsConfig(urls=(nats_url or nats.url,), ping_interval_s=1.0),
            DatabaseConfig(url=database_url, pool_min=1, pool_max=8, **(PATIENT | (database or {}))),
            ProjectorConfig(**fields),
            registry=Metrics(CollectorRegistry()),
        )
        started.append(service)
        await service.start()
        if wait:
            await service.wait_ready(100)
        return service

    yield start
    for service in started:
        await asyncio.wait_for(service.drain(), 100)
        await service.stop()


assert limits.TAKEOVER_S == 5.0, "the takeover tests say 5 s"
