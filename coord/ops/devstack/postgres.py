"""One PostgreSQL cluster on loopback: made, started, crashed, recovered, stopped.

It runs as `places.database_account()`, never as root.  Connections from this machine are
trusted: it is for development and tests, and holds nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from coord import limits
from coord.errors import EnvironmentProblem
from coord.ops.devstack import places, ports, process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.ops.devstack.install import Install
    from coord.ops.devstack.process import Account

OWNER = "coord"
"""The superuser of a dev cluster, and the name of its database."""

_SOCKET_BYTES_MAX = 107 - len("/.s.PGSQL.65535.lock")
_ZONEINFO = Path("/usr/share/zoneinfo/UTC")


class PostgresOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the cluster is to run.

    `port`: tried first; another free one is taken when it is not free (0: any).  `fsync`: off
    only where a crash of the machine may cost everything.  `settings`: more server settings.
    """

    port: int = 0
    fsync: bool = True
    max_connections: int = 200
    shared_buffers: str = "256MB"
    settings: dict[str, str] = {}


def server_settings(options: PostgresOptions, *, port: int, socket_dir: Path, timescaledb: bool) -> dict[str, str]:
    """The server's settings: what a dev database needs and nothing that a production one would not."""
    # A path that does not fit into a socket address means no socket, not no server.
    sockets = str(socket_dir) if len(os.fsencode(socket_dir)) <= _SOCKET_BYTES_MAX else ""
    zone = "UTC" if _ZONEINFO.exists() else "GMT"  # GMT is built in, UTC is a file
    settings = {
        "listen_addresses": ports.LOOPBACK,
        "port": str(port),
        "unix_socket_directories": sockets,
        "cluster_name": "coord-dev",
        "max_connections": str(options.max_connections),
        "shared_buffers": options.shared_buffers,
        "max_wal_size": "2GB",
        "track_commit_timestamp": "on",
        "jit": "off",
        "timezone": zone,
        "log_timezone": zone,
        "log_line_prefix": "%m [%p] %d ",
    }
    if not options.fsync:
        settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    if timescaledb:
        settings |= {
            "shared_preload_libraries": "timescaledb",
            # One launcher, one scheduler per database, and room for jobs.
            "timescaledb.max_background_workers": "32",
            "max_worker_processes": "48",
            "timescaledb.telemetry_level": "off",
        }
    return settings | options.settings


def render(settings: Mapping[str, str]) -> str:
    """The settings as a configuration file."""
    lines = (f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items())
    return "# Written by coord's dev stack at every start: changes here do not last.\n" + "\n".join(lines) + "\n"


class PostgresServer:
    """A PostgreSQL cluster of our own, with its files under `home`."""

    def __init__(
        self, home: Path, install: Install, account: Account | None, options: PostgresOptions | None = None
    ) -> None:
        self.home = home.resolve()
        self.install = install
        self.options = options or PostgresOptions()
        self.port = 0
        self._account = account
        self._child: process.Child | None = None

    @property
    def data(self) -> Path:
        """The cluster's data directory."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.home / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it does not run."""
        return self._child.pid if self._child and self._child.exit_code is None else None

    def url(self, database: str = OWNER) -> str:
        """Where the owner connects."""
        return f"postgresql://{OWNER}@{ports.LOOPBACK}:{self.port}/{database}"

    async def start(self, *, die_with_parent: bool = True) -> None:
        """Make the cluster when there is none, start it, wait until it accepts connections.

        Crash recovery is waited for.  Starting a running server does nothing; after a stop or a
        kill it comes back on the same port.  Raises `EnvironmentProblem` when it cannot start.
        """
        if self.pid:
            return
        await asyncio.to_thread(self._make)
        if self.port:
            await self._start(die_with_parent=die_with_parent)
            return
        for attempt in range(limits.DEV_PORT_TRIES):
            self.port = ports.choose(self.options.port)
            try:
                await self._start(die_with_parent=die_with_parent)
            except EnvironmentProblem:
                lost_race = not ports.is_free(self.port)
                self.port = 0
                if not lost_race or attempt + 1 == limits.DEV_PORT_TRIES:
                    raise
            else:
                return

    async def stop(self, *, immediate: bool = False) -> None:
        """Fast shutdown and wait: clients are cut off, everything is flushed.  Stopping twice is legal.

        `immediate`: flush nothing; the next start recovers.
        """
        if self._child:
            await self._child.stop(signal.SIGQUIT if immediate else signal.SIGINT)
            self._child = None

    async def kill(self) -> None:
        """SIGKILL to the postmaster, then to its children: what was not written is lost, as in a crash.

        Returns when they are gone, so that the cluster can be started again at once.
        """
        if not self._child:
            return
        family = _children(self._child.pid)
        self._child.kill()
        self._child = None
        for ref in family:
            if ref.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(ref.pid, signal.SIGKILL)

        async def gone() -> bool:
            return not any(ref.alive() for ref in family)

        await process.wait_until(gone, limits.DEV_STOP_S)

    async def restart(self) -> None:
        """Stop (when it runs) and start on the same port with the same data."""
        await self.stop()
        await self.start()

    async def ensure_database(self, name: str = OWNER) -> None:
        """Create the database when there is none, with TimescaleDB when the server has it."""
        admin = await asyncpg.connect(self.url("postgres"))
        try:
            if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await admin.execute(f'CREATE DATABASE "{name}"')
        finally:
            await admin.close()
        if self.install.timescaledb:
            conn = await asyncpg.connect(self.url(name))
            try:
                await conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            finally:
                await conn.close()

    async def _start(self, *, die_with_parent: bool) -> None:
        conf = self.home / "postgresql.conf"
        settings = server_settings(
            self.options, port=self.port, socket_dir=self.home / "run", timescaledb=self.install.timescaledb
        )
        conf.write_text(render(settings))
        child = process.spawn(
            "PostgreSQL",
            [self.install.bin_dir / "postgres", "-D", self.data, "-c", f"config_file={conf}"],
            log=self.log,
            cwd=self.home,
            account=self._account,
            die_with_parent=signal.SIGINT if die_with_parent else None,
            env=_environment(self.home),
        )
        try:
            await child.ready(self._answers)
        except BaseException:
            child.kill()
            raise
        self._child = child

    async def _answers(self) -> bool:
        if not self._says_ready():
            return False
        try:
            conn = await asyncpg.connect(self.url("postgres"), timeout=limits.DB_CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
            return False
        # Another server may have taken the port meanwhile: only ours has our data.
        try:
            return bool(await conn.fetchval("SELECT current_setting('data_directory') = $1", str(self.data)))
        finally:
            await conn.close()

    def _says_ready(self) -> bool:
        """What the postmaster writes into its own file: asking it earlier would fill its log with refusals."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() in ("ready", "standby")  # a replica says the latter

    def _make(self) -> None:
        """The folders, and the cluster when there is none.  Blocks: about a second the first time."""
        # `home` stays ours: as root, nothing is ever written into a folder that another account can change.
        places.make_folder(self.home, self._account)
        self._private(self.home / "run")
        found = data_major(self.home)
        if found is not None:
            if found != self.install.major:
                raise EnvironmentProblem(
                    f"The data in {self.home} is PostgreSQL {found}'s and PostgreSQL {self.install.major} is here: "
                    "move it away, or use --ephemeral."
                )
            return
        # initdb into a folder of another name: a run that was cut off leaves nothing that looks like a cluster.
        part = self.home / "data.part"
        for leftover in (part, self.data):
            shutil.rmtree(leftover, ignore_errors=True)
        self._private(part)
        self._initdb(part)
        part.rename(self.data)

    def _initdb(self, folder: Path) -> None:
        """Make a cluster in a folder that is empty: a second of CPU."""
        options: list[str | Path] = ["-D", folder, "-U", OWNER, "-A", "trust", "-E", "UTF8", "--no-locale"]
        if not self.options.fsync:
            options.append("--no-sync")
        process.run(
            [self.install.bin_dir / "initdb", "--no-instructions", *options],
            what="Making the database cluster",
            cwd=self.home,
            account=self._account,
            env=_environment(self.home),
        )

    def _private(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            places.own(folder, self._account)


def data_major(home: Path) -> int | None:
    """The PostgreSQL whose data lies in `home`; None when there is none yet."""
    version = home / "data" / "PG_VERSION"
    return int(version.read_text().strip()) if version.is_file() else None


async def edition(url: str) -> str:
    """Which edition the database at `url` is: "community", "apache" or "plain" (no TimescaleDB extension in it).

    Raises `EnvironmentProblem` when it cannot be reached.
    """
    try:
        conn = await asyncpg.connect(url, timeout=limits.DB_CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        raise EnvironmentProblem(f"The database does not let us in ({exc}): check --database.") from exc
    from coord.store import editions  # with a second driver, which takes long to import

    try:
        return (await editions.detect_async(conn)).name
    finally:
        await conn.close()


def _environment(home: Path) -> dict[str, str]:
    """What a server program sees: nothing of the caller's that could change it (PGDATA, LD_PRELOAD, locale)."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": str(home), "TZ": "UTC"}


def _children(pid: int) -> list[process.ProcessRef]:
    try:
        ids = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [ref for child in ids if (ref := process.ProcessRef.of(child))]
