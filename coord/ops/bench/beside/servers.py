"""The server that each side needs: fresh for each round, on free ports of loopback, gone when the block ends."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec

from coord.ops import environment
from coord.ops.bench import servers
from coord.ops.bench.beside.sides import Server, program
from coord.ops.bench.measure import cpu_s
from coord.ops.bench.workers import Job, Worker
from coord.ops.devstack import ports, process
from coord.ops.devstack.nats import NatsOptions, NatsServer

_DATABASE: Final = "beside"
# One partition takes a third less CPU on two cores than the default of 24.
_RESTATE: Final = """\
roles = ["http-ingress", "admin", "worker", "log-server", "metadata-server"]
listen-mode = "tcp"
bind-address = "{host}:{node}"
advertised-address = "http://{host}:{node}/"
disable-telemetry = true
default-num-partitions = 1
log-filter = "error"
base-dir = {folder}

[ingress]
bind-address = "{host}:{ingress}"

[admin]
bind-address = "{host}:{admin}"
disable-web-ui = true

[log-server]
rocksdb-disable-wal-fsync = {unsynced}

[bifrost.local]
rocksdb-disable-wal-fsync = {unsynced}
"""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A side's server while it runs."""

    url: str
    database_url: str = ""
    processes: dict[str, tuple[int, bool]]
    """What its CPU time is called → its process, and whether that one's children count."""
    introduce: Callable[[int], Awaitable[None]] | None = None
    """To be called with the worker's port once that one listens."""

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far."""
        return {name: cpu_s(pid, children=children) for name, (pid, children) in self.processes.items()}


@asynccontextmanager
async def serving(server: Server, database: servers.Database, *, synced: bool) -> AsyncIterator[Served]:
    """Start what a side needs.  `synced`: what is acknowledged is on disk, not in the system's cache alone."""
    with tempfile.TemporaryDirectory(prefix="coord-beside-", ignore_cleanup_errors=True) as folder:
        async with _SERVERS[server](Path(folder), database, synced) as served:
            yield served


@asynccontextmanager
async def _coord(_folder: Path, database: servers.Database, synced: bool) -> AsyncIterator[Served]:
    """nats-server with coord's streams, and the fleet: projector, query service, deciders, presence."""
    await servers.emptied(database.config)
    async with servers.broker(_sync_interval(synced)) as nats:
        fleet = Job(role="fleet", nats_url=nats.url, database_url=database.config.url)
        async with Worker(fleet) as worker:
            yield Served(
                url=nats.url,
                processes={"nats": (_pid(nats), False), "coord": (worker.pid, False), **_postgres(database)},
            )


@asynccontextmanager
async def _nats(folder: Path, _database: servers.Database, synced: bool) -> AsyncIterator[Served]:
    nats = NatsServer(folder, NatsOptions(sync_interval=_sync_interval(synced)))
    await nats.start()
    try:
        yield Served(url=nats.url, processes={"nats": (_pid(nats), False)})
    finally:
        await nats.stop()


@asynccontextmanager
async def _own_database(_folder: Path, database: servers.Database, synced: bool) -> AsyncIterator[Served]:
    """An empty database beside coord's, on the same server."""
    commit = "on" if synced else "off"
    await _execute(
        database.config.url,
        f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)",
        f"CREATE DATABASE {_DATABASE}",
        f"ALTER DATABASE {_DATABASE} SET synchronous_commit = {commit}",
    )
    url = urlunsplit(urlsplit(database.config.url)._replace(path=f"/{_DATABASE}"))
    try:
        yield Served(url=url, database_url=url, processes=_postgres(database))
    finally:
        await _execute(database.config.url, f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")


@asynccontextmanager
async def _restate(folder: Path, _database: servers.Database, synced: bool) -> AsyncIterator[Served]:
    node = ports.choose()
    ingress = ports.choose(taken=frozenset({node}))
    admin = ports.choose(taken=frozenset({node, ingress}))
    config = folder / "restate.toml"
    config.write_text(
        _RESTATE.format(
            host=ports.LOOPBACK,
            node=node,
            ingress=ingress,
            admin=admin,
            folder=msgspec.json.encode(str(folder / "data")).decode(),
            unsynced="false" if synced else "true",
        ),
        encoding="utf-8",
    )
    admin_url = f"http://{ports.LOOPBACK}:{admin}"

    async def healthy() -> bool:
        return await asyncio.to_thread(_answers, f"{admin_url}/health")

    async def introduce(port: int) -> None:
        await asyncio.to_thread(_post, f"{admin_url}/deployments", {"uri": f"http://{ports.LOOPBACK}:{port}"})

    argv = [program("restate-server"), "--config-file", config, "--no-logo"]
    async with _running("restate-server", argv, folder, healthy) as child:
        yield Served(
            url=f"http://{ports.LOOPBACK}:{ingress}", processes={"server": (child.pid, False)}, introduce=introduce
        )


@asynccontextmanager
async def _temporal(folder: Path, _database: servers.Database, synced: bool) -> AsyncIterator[Served]:
    port = ports.choose()
    argv: list[Any] = [
        program("temporal"), "server", "start-dev", "--headless", "--ip", ports.LOOPBACK, "--port", f"{port}",
        "--log-level", "never", "--disable-config-file", "--disable-config-env",
    ]  # fmt: skip
    if synced:
        argv += ["--db-filename", folder / "temporal.db"]

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection(ports.LOOPBACK, port)
        except OSError:
            return False
        writer.close()
        return True

    async with _running("temporal", argv, folder, listens) as child:
        yield Served(url=f"{ports.LOOPBACK}:{port}", processes={"server": (child.pid, False)})


@asynccontextmanager
async def _running(
    name: str, argv: list[Any], folder: Path, ready: Callable[[], Awaitable[bool]]
) -> AsyncIterator[process.Child]:
    child = process.spawn(name, argv, log=folder / f"{name}.log", cwd=folder, env=environment.variables())
    try:
        await child.ready(ready)
        yield child
    finally:
        await child.stop(signal.SIGTERM, timeout_s=5.0)


_SERVERS: Final = {
    "coord": _coord,
    "nats": _nats,
    "database": _own_database,
    "restate": _restate,
    "temporal": _temporal,
}


def _sync_interval(synced: bool) -> str | None:
    return "always" if synced else None


def _pid(nats: NatsServer) -> int:
    assert nats.pid is not None
    return nats.pid


def _postgres(database: servers.Database) -> dict[str, tuple[int, bool]]:
    return {} if database.pid is None else {"database": (database.pid, True)}


async def _execute(url: str, *statements: str) -> None:
    db: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
    try:
        for statement in statements:
            await db.execute(statement)
    finally:
        await db.close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - http, on loopback
            return bool(response.status == 200)
    except OSError:
        return False


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(  # noqa: S310 - as above
        url, data=msgspec.json.encode(body), headers={"content-type": "application/json"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=20).close()  # noqa: S310
