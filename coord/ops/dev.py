"""``coord dev``: the servers and the services, on one machine, in one process.

A folder (``./.coord``) is one stack.  The first `coord dev` in it starts nats-server and a
database, applies streams/ (profile development) and sql/, runs every service in this process
and says where everything is; a second one finds it and says the same.  Ctrl-C drains the
services, then ends the servers; the data stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from coord.ops import environment, serve, settings
from coord.ops.cli.output import Output
from coord.ops.devstack.nats import NatsOptions
from coord.ops.devstack.postgres import PostgresOptions
from coord.ops.devstack.stack import DevStack, DevStackConfig, StackState, find
from coord.ops.settings import Loaded
from coord.runtime import signals
from coord.runtime.http_config import HttpConfig
from coord.runtime.service import Service, ServiceGroup
from coord.telemetry import logs
from coord.wire.subjects import FactSubject

NATS_PORT: Final = 4222
NATS_HTTP_PORT: Final = 8222
DATABASE_PORT: Final = 5432
"""The usual ports; another free one is taken, and said, when they are not free."""

_URL_FILE: Final = "http.url"

_LOOK_S: Final = 0.5
"""How often it is looked whether the servers are there."""


class DevConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What `coord dev` starts, and where."""

    path: Path = Path(".coord")
    ephemeral: bool = False
    database_url: str | None = None
    nats_port: int = NATS_PORT
    database_port: int = DATABASE_PORT
    http_port: int | None = None
    """None: the settings', or a free one when that is taken."""


async def run(
    config: DevConfig, out: Output, *, file: Path | None = None, on_ready: Callable[[], None] | None = None
) -> int:
    """Start what is missing, run until a signal, leave nothing running; returns the exit code.

    `file`: settings beside the stack's addresses.  Raises `EnvironmentProblem` in one line that
    names the fix when the machine lacks something.
    """
    if not config.ephemeral and (found := find(config.path)) is not None:
        banner(out, found, http_url=_known_http_url(config.path), found=True)
        return signals.EXIT_OK
    with signals.interrupts() as received:
        stack = DevStack(_stack_config(config), say=out.say)
        async with contextlib.AsyncExitStack() as exits:
            out.say("Starting nats-server and the database; Ctrl-C ends them.")
            exits.push_async_callback(stack.stop)
            await stack.start()
            if stack.attached:  # another was faster
                banner(out, stack.state, http_url=None, found=True)
                return signals.EXIT_OK
            loaded = _settings(config, stack, file, out)
            await exits.enter_async_context(_logging(loaded, stack.data_dir))
            await serve.prepare(loaded.settings)
            group = serve.services(loaded.settings)
            everything = ServiceGroup("dev", [_Servers(stack), group])

            def ready() -> None:
                url = _http_url(group)
                (stack.data_dir / _URL_FILE).write_text(url or "", encoding="utf-8")
                banner(out, stack.state, http_url=url, found=False)
                if on_ready is not None:
                    on_ready()

            exits.callback((stack.data_dir / _URL_FILE).unlink, missing_ok=True)
            drain_s = loaded.settings.service.drain_s
            code = await signals.run(everything, drain_s=drain_s, received=received, on_ready=ready)
            out.say("Drained. Ending the servers.")
        if not config.ephemeral:
            out.say(f"The data stays in {config.path}: `coord dev` goes on with it.")
        return code


class _Servers(Service):
    """Starts a server of the stack again that has ended: killed by hand, or by a machine without memory."""

    def __init__(self, stack: DevStack) -> None:
        super().__init__("dev-servers")
        self._stack = stack

    async def run(self) -> None:
        while not self.draining.is_set():
            await self._stack.revive()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self.draining.wait()
        await super().run()


def variables(state: StackState) -> dict[str, str]:
    """What `coord dev env` prints: the stack's addresses as settings."""
    found = {}
    if state.nats is not None:
        found["COORD_NATS_URLS"] = state.nats.url
    if state.database is not None:
        found["COORD_DATABASE_URL"] = state.database.url
    found["COORD_STREAMS_PROFILE"] = "development"
    return found


def banner(out: Output, state: StackState, *, http_url: str | None, found: bool) -> None:
    """Where everything is and what to try, on stderr: it is talk."""
    lines: list[tuple[str, str]] = []
    if state.nats is not None:
        lines.append(("NATS", state.nats.url))
        lines.append(("", f"{state.nats.http_url}  (the server's own pages)"))
    if state.database is not None:
        lines.append(("Database", state.database.url))
        lines.append(("", f"edition {state.database.edition}: {state.database.note}"))
    if http_url is not None:
        lines.append(("Metrics", f"{http_url}/metrics  /healthz  /readyz"))
    lines.append(("Data", f"{state.data_dir}"))
    title = f"coord dev is running already (pid {state.owner.pid})" if found else "coord dev: for development only"
    out.say("")
    out.say(out.style(title, "bold"))
    for name, text in lines:
        out.say(f"  {name:<9} {text}")
    nats = state.nats.url if state.nats else ""
    subject = FactSubject("default", "me", "me", "agent", "me", "status").publish
    out.say("")
    out.say("Try, in another terminal here:")
    for command in (
        "coord event tail",
        "coord event pub agent me status --agent me --data '{\"load\": 0.2}'",
        f"nats --server {nats} req {subject} '{{\"load\": 0.2}}'   (pub: without waiting for the ack)",
        "coord top",
        "coord query recent_events",
        "coord status",
    ):
        out.say(f"  {command}")
    out.say("")


def _stack_config(config: DevConfig) -> DevStackConfig:
    return DevStackConfig.from_env(
        environment.variables(),
        data_dir=config.path,
        ephemeral=config.ephemeral,
        database_url=config.database_url,
        nats_options=NatsOptions(port=config.nats_port, http_port=NATS_HTTP_PORT),
        postgres_options=PostgresOptions(port=config.database_port),
    )


def _settings(config: DevConfig, stack: DevStack, file: Path | None, out: Output) -> Loaded:
    """The settings, with the stack's addresses; a taken port for probes becomes a free one."""
    options: dict[str, tuple[Any, str]] = {
        "nats.urls": ([stack.nats_url], "coord dev"),
        "database.url": (stack.database_url, "coord dev"),
        "streams.profile": ("development", "coord dev"),
    }
    if stack.nats_system_user is not None:
        options["presence.system_user"] = options["presence.system_password"] = (stack.nats_system_user, "coord dev")
    if config.http_port is not None:
        options["http.port"] = (config.http_port, "--http-port")
    loaded = settings.load(file, options=options, dev_folder=None)
    http = loaded.settings.http
    if http.enabled and http.port and not _is_free(http.host, http.port):
        out.say(f"Port {http.port} is taken: metrics and probes get a free one.")
        changed = msgspec.structs.replace(loaded.settings, http=HttpConfig(host=http.host, port=0))
        loaded = msgspec.structs.replace(loaded, settings=changed)
    return loaded


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
        return True


@contextlib.asynccontextmanager
async def _logging(loaded: Loaded, folder: Path) -> AsyncIterator[None]:
    """Everything as JSON into the stack's folder, warnings to the terminal."""
    path = folder / "coord.log"
    with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        logs.configure(loaded.settings.log, service="coord-dev", stream=stream)
        logs.also(logs.LogConfig(level="warning", format="console", libraries_level="error"))
        try:
            yield
        finally:
            logs.unconfigure()


def _known_http_url(folder: Path) -> str | None:
    """Where the running stack's metrics are, if it has said so."""
    try:
        return (folder / _URL_FILE).read_text(encoding="utf-8") or None
    except OSError:
        return None


def _http_url(group: Any) -> str | None:
    return next((url for member in group.members if (url := getattr(member, "url", None))), None)
