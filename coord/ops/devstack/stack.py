"""The dev stack: nats-server and a database, started together and ended together.

One folder, one stack.  Whoever holds the lock in the folder runs the servers; a second start
finds them through `stack.json` and connects instead of starting.  A stack that ended without
cleaning up (power, SIGKILL) is noticed by its lock being free: what it left running is ended by
process id and start time, and its data is used again.

    data_dir/
      stack.lock  stack.json  stack.id
      nats/       nats.conf nats-server.log store/
      postgres/   postgresql.conf postgres.log data/ run/    (or elsewhere, see places.py)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, get_args

import msgspec

from coord import limits
from coord.errors import EnvironmentProblem, SettingsError
from coord.ops.devstack import install, places, postgres, process
from coord.ops.devstack.docker import DockerPostgres
from coord.ops.devstack.install import Source
from coord.ops.devstack.locks import FileLock
from coord.ops.devstack.nats import SYSTEM_USER, NatsOptions, NatsServer, has_system, server_info
from coord.ops.devstack.postgres import PostgresOptions, PostgresServer
from coord.ops.devstack.process import ProcessRef

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType

    from coord.ops.devstack.install import Install
    from coord.ops.devstack.process import Account

_log = logging.getLogger("coord.devstack")

_PROVISION_S = limits.DEV_LOCK_S + limits.DEV_START_S


class DevStackConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, and where.

    `data_dir`: the stack's folder.  `ephemeral`: a temporary folder instead, removed at the end.
    `nats`, `database`: which servers.  `database_url`: use this database and start none.
    `source`: where the database comes from (`install.Source`).  `cache_dir`: for downloaded
    servers (None: see `places.cache_dir`).  `nats_options`, `postgres_options`: the servers' own.
    """

    data_dir: Path = Path(".coord")
    ephemeral: bool = False
    nats: bool = True
    database: bool = True
    database_url: str | None = None
    source: Source = "auto"
    cache_dir: Path | None = None
    nats_options: NatsOptions = NatsOptions()
    postgres_options: PostgresOptions = PostgresOptions()

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **fields: Any) -> DevStackConfig:
        """`fields`, and for those left out COORD_DEV_DATABASE (`source`) and COORD_CACHE_DIR (`cache_dir`).

        Raises `SettingsError` when a variable holds nothing that can be meant.
        """
        source = environ.get("COORD_DEV_DATABASE", "")
        if source and source not in get_args(Source):
            raise SettingsError(f"COORD_DEV_DATABASE is {source!r}, not one of {', '.join(get_args(Source))}.")
        if source:
            fields.setdefault("source", source)
        if cache := environ.get("COORD_CACHE_DIR", ""):
            fields.setdefault("cache_dir", Path(cache))
        return cls(**fields)


class NatsState(msgspec.Struct, frozen=True, kw_only=True):
    """A running nats-server."""

    url: str
    http_url: str
    process: ProcessRef
    system_user: str | None = None
    """Name and password of a user of the system account; None: nobody is let in."""


class DatabaseState(msgspec.Struct, frozen=True, kw_only=True):
    """The stack's database; `process` is None when it is not ours or a container's."""

    url: str
    edition: str
    note: str
    home: str | None = None
    process: ProcessRef | None = None


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """What a running stack says about itself in `stack.json`."""

    owner: ProcessRef
    data_dir: str
    nats: NatsState | None = None
    database: DatabaseState | None = None


class _Database(Protocol):
    """What the stack needs of a database server."""

    @property
    def pid(self) -> int | None: ...
    def url(self, database: str = ...) -> str: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def kill(self) -> None: ...
    async def restart(self) -> None: ...
    async def ensure_database(self) -> None: ...


def find(data_dir: Path) -> StackState | None:
    """The stack that runs in `data_dir`; None when none does."""
    state = _read_state(data_dir / "stack.json")
    return state if state and state.owner.alive() else None


class DevStack:
    """Servers for development, demo, tests and benchmarks.  Start and stop it, or use `async with`.

    `say` gets one line for a person whenever something took another way than usual.
    """

    def __init__(self, config: DevStackConfig | None = None, *, say: Callable[[str], None] | None = None) -> None:
        self.config = config or DevStackConfig()
        self.data_dir = self.config.data_dir
        self.attached = False
        self.nats: NatsServer | None = None
        self._say = say or _log.info
        self._lock: FileLock | None = None
        self._elsewhere: Path | None = None
        self._database: _Database | None = None
        self._state: StackState | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def state(self) -> StackState:
        """Everything about the running stack.  Raises `EnvironmentProblem` when it does not run."""
        if self._state is None:
            raise EnvironmentProblem("The dev stack is not started.")
        return self._state

    @property
    def nats_url(self) -> str:
        """Where NATS clients connect."""
        return self._nats_state().url

    @property
    def nats_system_user(self) -> str | None:
        """Name and password of a user of the system account."""
        return self._nats_state().system_user

    @property
    def database_url(self) -> str:
        """Where the database's owner connects."""
        return self._database_state().url

    @property
    def edition(self) -> str:
        """The database's edition: "community", "apache" or "plain"."""
        return self._database_state().edition

    @property
    def edition_note(self) -> str:
        """One line on where the database comes from."""
        return self._database_state().note

    @property
    def nats_pid(self) -> int | None:
        """nats-server's process id; None when it does not run or is not ours."""
        return self.nats.pid if self.nats else None

    @property
    def postgres_pid(self) -> int | None:
        """The postmaster's process id; None when it does not run or is not ours."""
        return self._database.pid if self._database else None

    async def start(self) -> None:
        """Start what the configuration names, or find the stack that already runs there.

        Raises `EnvironmentProblem`, one line that names the fix, when something is missing;
        nothing is left running then.
        """
        if self._state:
            return
        try:
            if self.config.ephemeral:
                self.data_dir = Path(tempfile.mkdtemp(prefix="coord-"))
                # The database's account must be able to walk through; its own folders are private.
                self.data_dir.chmod(0o711)
            else:
                places.make_folder(self.data_dir, await asyncio.to_thread(places.database_account))
            found = await self._take_or_find()
            if found:
                self._attach(found)
                return
            await self._clear_leftovers()
            nats, database = await self._start_servers()
            owner = ProcessRef.of(os.getpid())
            assert owner
            self._state = StackState(owner=owner, data_dir=str(self.data_dir.resolve()), nats=nats, database=database)
            _write_state(self.data_dir / "stack.json", self._state)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the servers this object started, and keep their data unless the stack is ephemeral.

        A stack that was only found is left alone.  Stopping twice is legal.
        """
        servers = [s for s in (self.nats, self._database) if s]
        await asyncio.gather(*(s.stop() for s in servers))
        self.nats = self._database = None
        if self._lock:
            (self.data_dir / "stack.json").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
        if self.config.ephemeral and self.data_dir != self.config.data_dir:
            for folder in filter(None, (self.data_dir, self._elsewhere)):
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            self.data_dir = self.config.data_dir
        self._state = None
        self.attached = False

    async def kill_nats(self) -> None:
        """SIGKILL nats-server."""
        self._own_nats().kill()

    async def restart_nats(self) -> None:
        """Start nats-server again, on its port with its data; stops it first when it runs."""
        await self._own_nats().restart()

    async def kill_postgres(self) -> None:
        """SIGKILL PostgreSQL and all its processes: commits that were not flushed are lost."""
        await self._own_database().kill()

    async def restart_postgres(self) -> None:
        """Start PostgreSQL again, on its port with its data, and wait for its recovery; stops it first when it runs."""
        await self._own_database().restart()

    async def revive(self) -> None:
        """Start what has ended by itself again, on its port with its data, and say so.

        Raises `EnvironmentProblem` when it does not start, as while what a killed one left still holds its files.
        """
        state = self.state
        if self.nats is not None and state.nats is not None and self.nats.pid is None:
            self._say("nats-server has ended: starting it again.")
            await self.nats.restart()
            ref = _process_of(self.nats)
            if ref is not None:
                state = msgspec.structs.replace(state, nats=msgspec.structs.replace(state.nats, process=ref))
        database = state.database
        if self._database is not None and database is not None and database.process and self._database.pid is None:
            self._say("PostgreSQL has ended: starting it again.")
            await self._database.restart()
            ref = _process_of(self._database)
            state = msgspec.structs.replace(state, database=msgspec.structs.replace(database, process=ref))
        if state is not self._state:
            self._state = state
            _write_state(self.data_dir / "stack.json", state)

    # --- one stack per folder ---

    async def _take_or_find(self) -> StackState | None:
        """Become the folder's owner (None), or find the stack of the one who is."""
        self._lock = FileLock(self.data_dir / "stack.lock")
        found: StackState | None = None
        waiting = False

        async def settled() -> bool:
            nonlocal found, waiting
            assert self._lock
            if self._lock.acquire():
                return True
            found = find(self.data_dir)
            if found is None and not waiting:
                waiting = True
                self._say(f"Waiting for the stack that another process is starting in {self.data_dir}.")
            return found is not None and await _answers(found)

        try:
            await process.wait_until(settled, _PROVISION_S)
        except TimeoutError:
            raise EnvironmentProblem(
                f"Another process holds {self.data_dir}/stack.lock and its stack does not answer: end it, or use "
                "--ephemeral."
            ) from None
        if self._lock.held:
            return None
        self._lock = None
        return found

    def _attach(self, found: StackState) -> None:
        asked = self.config
        if (asked.nats and not found.nats) or (asked.database and not found.database):
            missing = "nats-server" if asked.nats and not found.nats else "database"
            raise EnvironmentProblem(f"The stack running in {self.data_dir} has no {missing}: end it, or --ephemeral.")
        if asked.database_url and found.database and asked.database_url != found.database.url:
            raise EnvironmentProblem(
                f"The stack running in {self.data_dir} (pid {found.owner.pid}) uses another database: end it, or use "
                "--ephemeral."
            )
        self._state = found
        self.attached = True

    async def _clear_leftovers(self) -> None:
        """End what a stack that died left running in this folder."""
        path = self.data_dir / "stack.json"
        state = _read_state(path)
        if not state:
            path.unlink(missing_ok=True)
            return
        left = [(state.nats.process, signal.SIGTERM)] if state.nats else []
        if state.database and state.database.process:
            left.append((state.database.process, signal.SIGINT))
        for ref, os_signal in left:
            if ref.alive():
                self._say(f"Ending process {ref.pid}, left behind by a stack that died.")
                await process.end_leftover(ref, os_signal)
        path.unlink()

    # --- servers ---

    async def _start_servers(self) -> tuple[NatsState | None, DatabaseState | None]:
        return await _both(
            self._start_nats() if self.config.nats else _nothing(),
            self._start_database() if self.config.database else _nothing(),
        )

    async def _start_nats(self) -> NatsState:
        options = self.config.nats_options
        self.nats = NatsServer(self.data_dir / "nats", options)
        await self.nats.start()
        self._say_port("nats-server", options.port, self.nats.port)
        assert self.nats.pid
        ref = ProcessRef.of(self.nats.pid)
        assert ref
        user = SYSTEM_USER if has_system(self.nats.options) else None
        return NatsState(url=self.nats.url, http_url=self.nats.http_url, process=ref, system_user=user)

    async def _start_database(self) -> DatabaseState:
        options = self.config.postgres_options
        if self.config.database_url:
            url = self.config.database_url
            return DatabaseState(url=url, edition=await postgres.edition(url), note="the database at the URL given")
        home: Path | None = None
        if self.config.source == "docker":
            server: PostgresServer | DockerPostgres = DockerPostgres(
                self._stack_id(), options, volume=not self.config.ephemeral
            )
            note = "TimescaleDB's own image, in a container"
        else:
            server = await self._provided(options)
            home, note = server.home, server.install.note
        self._database = server
        await server.start()
        self._say_port("PostgreSQL", options.port, server.port)
        await server.ensure_database()
        url = server.url()
        return DatabaseState(
            url=url,
            edition=await postgres.edition(url),
            note=note,
            home=str(home) if home else None,
            process=ProcessRef.of(server.pid) if server.pid else None,
        )

    async def _provided(self, options: PostgresOptions) -> PostgresServer:
        account = await asyncio.to_thread(places.database_account)
        cache = await asyncio.to_thread(places.cache_dir, account, asked=self.config.cache_dir)
        home = await asyncio.to_thread(places.database_home, self.data_dir, account, self._stack_id())
        provided = await asyncio.to_thread(self._install, home, cache, account)
        if provided.source == "plain":
            self._say(f"The database is {provided.note}.")
        if home.parent != self.data_dir:
            assert account
            self._elsewhere = home.parent
            self._say(f"The database's files are in {home}: account {account.name} cannot reach {self.data_dir}.")
        return PostgresServer(home, provided, account, options)

    def _install(self, home: Path, cache: Path, account: Account | None) -> Install:
        """The PostgreSQL to run; blocks.  Data made by the fallback stays with the fallback."""
        provided = install.provide(self.config.source, cache, account, self._say)
        existing = postgres.data_major(home)
        if self.config.source != "auto" or existing in {None, provided.major}:
            return provided
        with contextlib.suppress(EnvironmentProblem):
            plain = install.provide("plain", cache, account, self._say)
            if plain.major == existing:
                why = f"as the data in {home} was made; remove it for {provided.note}"
                return msgspec.structs.replace(plain, note=f"{plain.note}, {why}")
        return provided

    def _stack_id(self) -> str:
        """A name for this folder's stack, made once: what lies outside the folder is named by it."""
        path = self.data_dir / "stack.id"
        if not path.exists():
            path.write_text(secrets.token_hex(6))
        return path.read_text().strip()

    def _say_port(self, what: str, preferred: int, got: int) -> None:
        if preferred and preferred != got:
            self._say(f"Port {preferred} is taken: {what} listens on {got}.")

    def _nats_state(self) -> NatsState:
        if not self.state.nats:
            raise EnvironmentProblem("This dev stack runs no nats-server.")
        return self.state.nats

    def _database_state(self) -> DatabaseState:
        if not self.state.database:
            raise EnvironmentProblem("This dev stack has no database.")
        return self.state.database

    def _own_nats(self) -> NatsServer:
        if not self.nats:
            raise EnvironmentProblem("The nats-server is not this process's to stop.")
        return self.nats

    def _own_database(self) -> _Database:
        if not self._database:
            raise EnvironmentProblem("The database is not this process's to stop.")
        return self._database


def _process_of(server: NatsServer | _Database) -> ProcessRef | None:
    return None if server.pid is None else ProcessRef.of(server.pid)


async def _nothing() -> None:
    return None


async def _both(
    nats: Coroutine[Any, Any, NatsState | None], database: Coroutine[Any, Any, DatabaseState | None]
) -> tuple[NatsState | None, DatabaseState | None]:
    """Both at once; when one fails the other is ended first, and the failure itself is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(nats), group.create_task(database)
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from None
    return first.result(), second.result()


async def _answers(state: StackState) -> bool:
    """Whether a found stack's servers accept connections."""
    if state.nats and await server_info(int(state.nats.url.rpartition(":")[2])) is None:
        return False
    if state.database:
        with contextlib.suppress(EnvironmentProblem):
            await postgres.edition(state.database.url)
            return True
        return False
    return True


def _read_state(path: Path) -> StackState | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=StackState)
    except (OSError, msgspec.MsgspecError):
        return None


def _write_state(path: Path, state: StackState) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(state)) + b"\n")
    part.rename(path)
