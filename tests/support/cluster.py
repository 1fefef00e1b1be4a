"""One PostgreSQL cluster and one folder for a whole test run, shared by all xdist workers.

The first worker that needs the cluster starts it; the run's controller ends it.  Should the controller
be killed, a guard that waits at the other end of a FIFO ends it instead, so nothing stays behind.
Databases are clones of templates: a clone takes 20 ms, a migrated database from scratch seconds.

All that the run writes lies in its folder, in memory where there is room: it is TMPDIR for the tests, pytest and
the programs that they start.  What tests that failed leave is moved to the disk at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import msgspec
import psutil
import psycopg

from coord.ops.devstack import DevStackConfig, PostgresOptions, install, places, postgres, process
from coord.ops.devstack.locks import locked
from coord.ops.devstack.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

RUN_DIR = "COORD_TEST_RUN_DIR"
_MEMORY = Path("/dev/shm")
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMORY_FREE = 6 << 30
"""Or it stays on disk.  A run was seen to take a GB at most."""
_LEFT = "coord-tests-left"
"""In the temporary folder proper: what tests of the last run that failed had written."""
_GUARD = (
    'cat "$1" >/dev/null; [ -f "$2" ] && kill -QUIT "$(head -n 1 "$2")"; '
    'for n in 1 2 3 4 5; do rm -rf "$3" "$4" && break; sleep 1; done'  # servers that are ending still write
)


_admins: dict[str, psycopg.Connection] = {}
"""By URL, what `_administer` keeps.  They belong to no loop, of which each test has one of its own."""
_administering = threading.Lock()


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run: its folder, the FIFO held in it, and the temporary folder there was before."""

    folder: Path
    alive: int
    tmpdir: Path


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """A running cluster; `edition`: what its databases with the extension are."""

    admin_url: str
    edition: str
    note: str
    folder: str | None = None
    process: process.ProcessRef | None = None

    def url(self, database: str) -> str:
        """The owner's URL of one of its databases."""
        return urlsplit(self.admin_url)._replace(path=f"/{database}").geturl()


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """A database of one test."""

    name: str
    url: str
    edition: str


def open_run() -> Run:
    """In the controller: make the run's folder, TMPDIR in it, and hold the FIFO that tells the guard we live."""
    tmpdir = Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="coord-tests-", dir=_MEMORY if has_room(_MEMORY) else tmpdir))
    made = folder / "tmp"
    made.mkdir()
    for walked in (folder, made):  # by the database's account
        walked.chmod(0o711)
    os.mkfifo(folder / "alive")
    os.environ[RUN_DIR] = str(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(made)
    return Run(folder=folder, alive=os.open(folder / "alive", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), tmpdir=tmpdir)


async def close_run(run: Run) -> None:
    """In the controller: end the cluster and remove everything, but for what pytest kept of tests that failed."""
    with contextlib.suppress(OSError):
        cluster = msgspec.json.decode((run.folder / "cluster.json").read_bytes(), type=Cluster)
        if cluster.process:
            await process.end_leftover(cluster.process, signal.SIGQUIT)  # its data is not wanted any more
        if cluster.folder:
            shutil.rmtree(cluster.folder, ignore_errors=True)
    if kept := list(run.folder.glob("tmp/pytest-of-*/pytest-[0-9]*")):
        left = run.tmpdir / _LEFT
        shutil.rmtree(left, ignore_errors=True)
        with contextlib.suppress(OSError, shutil.Error):  # no room there, or somebody else's: it only helps
            left.mkdir(mode=0o700)
            for folder in kept:
                shutil.move(folder, left / folder.name)
    shutil.rmtree(run.folder, ignore_errors=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(run.tmpdir)
    os.close(run.alive)


async def shared_cluster() -> Cluster:
    """The run's cluster, started by whoever comes first; an external one with COORD_TEST_DATABASE_URL."""
    if external := os.environ.get("COORD_TEST_DATABASE_URL"):
        return Cluster(
            admin_url=external, edition=await _edition_with_extension(external), note="COORD_TEST_DATABASE_URL"
        )
    run_dir = Path(os.environ[RUN_DIR])
    with locked(run_dir / "cluster.lock", what="it starts the tests' database"):
        path = run_dir / "cluster.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=Cluster)
        cluster = await _start(run_dir)
        path.write_bytes(msgspec.json.encode(cluster))
        return cluster


async def create_database(
    cluster: Cluster, name: str, template: str = "template0", *, extend: bool = False
) -> Database:
    """A new database, a clone of `template`; `extend`: with TimescaleDB in it where the cluster has it."""
    # Copied as files, 20 ms of CPU; through the log of a server that forgets everything anyway it is 270.
    await _administer(cluster, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    database = Database(name=name, url=cluster.url(name), edition=cluster.edition)
    if extend and cluster.edition != "plain":
        conn = await asyncpg.connect(database.url)
        try:
            await conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        finally:
            await conn.close()
    return database


async def drop_database(cluster: Cluster, name: str) -> None:
    """Drop it, whoever is still connected."""
    await _administer(cluster, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def template(
    cluster: Cluster, purpose: str, prepare: Callable[[Database], Awaitable[None]] | None, *, extend: bool = True
) -> str:
    """The run's template database for `purpose`, made by `prepare` the first time; `extend` as in `create_database`."""
    run_dir = Path(os.environ[RUN_DIR])
    name = f"coord_template_{purpose}_{run_dir.name.rpartition('-')[2]}"
    with locked(run_dir / f"{name}.lock", what="it prepares a template database"):
        made = run_dir / f"{name}.made"
        if not made.exists():
            await drop_database(cluster, name)
            database = await create_database(cluster, name, extend=extend)
            if prepare:
                await prepare(database)
            await _close_to_connections(cluster, name)
            made.touch()
    return name


@contextlib.asynccontextmanager
async def clone(cluster: Cluster, of: str) -> AsyncIterator[Database]:
    """A clone of a template for one test, dropped afterwards."""
    name = f"t_{secrets.token_hex(6)}"
    database = await create_database(cluster, name, of)
    try:
        yield database
    finally:
        await drop_database(cluster, name)


def has_room(folder: Path) -> bool:
    """Whether a run fits into `folder`, which is a file system in memory, and may start programs from there.

    A clone is four hundred new files, and the one before it has just left as many.  ext4 looks at every inode that was
    freed seconds ago before it takes another: 0.2 to 0.6 s of CPU for each test's database, where memory takes 0.02.
    Servers that only start and end cost a quarter more of it on a disk.
    """
    try:
        if os.statvfs(folder).f_flag & os.ST_NOEXEC or not os.access(folder, os.W_OK | os.X_OK):
            return False  # a container's, as a rule, which has 64 MB, too
        free = min(shutil.disk_usage(folder).free, psutil.virtual_memory().available)
        limit = _MEMORY_LIMIT.read_text().strip() if _MEMORY_LIMIT.exists() else "max"
    except OSError:
        return False
    return bool((free if limit == "max" else min(free, int(limit))) >= _MEMORY_FREE)


_initdb = PostgresServer._initdb


def _copy_cluster(server: PostgresServer, folder: Path) -> None:
    """What `initdb` makes, as a copy of what it made for the run's first server of these programs: 0.05 s, not 1."""
    run_dir = Path(os.environ[RUN_DIR])
    made = run_dir / f"initdb-{server.install.source}-{server.install.major}"
    with locked(run_dir / f"{made.name}.lock", what="it makes a database cluster"):
        if not made.exists():
            part = made.with_suffix(".part")
            server._private(part)
            _initdb(server, part)
            part.rename(made)
    copy_files(server, made, folder)


def copy_files(server: PostgresServer, made: Path, folder: Path) -> None:
    """Make `folder`, which is empty, the files of a cluster that does not run."""
    process.run(["cp", "-Rp", f"{made}/.", folder], what="Copying a cluster", cwd=Path("/"), account=server._account)


def copy_clusters() -> None:
    """From now on this process runs `initdb` once for each PostgreSQL there is."""
    PostgresServer._initdb = _copy_cluster  # type: ignore[method-assign, assignment]


async def _administer(cluster: Cluster, statement: str) -> None:
    """Have the cluster's owner do something, over a connection that this process keeps."""
    await asyncio.to_thread(_administer_now, cluster.admin_url, statement)


def _administer_now(url: str, statement: str) -> None:
    with _administering:
        kept = _admins.pop(url, None)
        if kept is None or not _answers(kept):
            kept = psycopg.connect(url, autocommit=True)
        _admins[url] = kept
        kept.execute(statement.encode())


def _answers(conn: psycopg.Connection) -> bool:
    """Whether its server was not killed meanwhile."""
    try:
        conn.execute("SELECT 1")
    except psycopg.OperationalError:
        conn.close()
        return False
    return True


def forget_admins() -> None:
    """Close what is kept."""
    while _admins:
        _admins.popitem()[1].close()


async def _start(run_dir: Path) -> Cluster:
    account = places.database_account()
    config = DevStackConfig.from_env(os.environ)
    cache = places.cache_dir(account, asked=config.cache_dir)
    provided = await asyncio.to_thread(install.provide, config.source, cache, account, print)
    required = os.environ.get("COORD_TEST_REQUIRE_TIMESCALEDB") == "1"
    assert provided.timescaledb or not required, f"these tests must run on TimescaleDB: {provided.note}"
    # Thrown away after the run: nothing to keep through a crash of the machine.
    options = PostgresOptions(fsync=False, shared_buffers="128MB", settings={"max_wal_size": "256MB"})
    home = places.database_home(run_dir, account, run_dir.name)  # elsewhere when TMPDIR is private to us
    server = PostgresServer(home, provided, account, options)
    await server.start(die_with_parent=False)  # this worker may end before the others
    assert server.pid
    guard: list[str | Path] = [
        "/bin/sh",
        "-c",
        _GUARD,
        "sh",
        run_dir / "alive",
        server.data / "postmaster.pid",
        run_dir,
        home.parent,
    ]
    process.spawn("guard", guard, log=run_dir / "guard.log", cwd=Path("/"), die_with_parent=None)
    admin_url = server.url("postgres")
    return Cluster(
        admin_url=admin_url,
        edition=await _edition_with_extension(admin_url),
        note=provided.note,
        folder=str(home.parent),
        process=process.ProcessRef.of(server.pid),
    )


async def _edition_with_extension(admin_url: str) -> str:
    """What a database of this cluster is once it has the extension."""
    admin = await asyncpg.connect(admin_url)
    try:
        if not await admin.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'"):
            return "plain"
    finally:
        await admin.close()
    cluster = Cluster(admin_url=admin_url, edition="unknown", note="")
    name = f"t_{secrets.token_hex(6)}"
    database = await create_database(cluster, name, extend=True)
    try:
        return await postgres.edition(database.url)
    finally:
        await drop_database(cluster, name)


async def _close_to_connections(cluster: Cluster, name: str) -> None:
    """A database is cloned only while nobody is connected; TimescaleDB's scheduler would be."""
    admin = await asyncpg.connect(cluster.admin_url)
    try:
        await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')

        async def alone() -> bool:
            count = await admin.fetchval(
                "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid) IS NOT NULL)"
                " FROM pg_stat_activity WHERE datname = $1",
                name,
            )
            return bool(count == 0)

        await process.wait_until(alone, 60)
    finally:
        await admin.close()
