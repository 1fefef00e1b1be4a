"""``coord serve``: what systemd and a container run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from coord.ops.cli.base import Context, command

if TYPE_CHECKING:
    from coord.ops.serve import What
    from coord.ops.settings import Settings

_WHATS = ("all", "projector", "query", "decider")


def add_to(app: typer.Typer) -> None:
    """Register the command at the root."""
    command(app, "serve", is_program=False)(serve)


async def serve(
    ctx: Context,
    what: Annotated[str, typer.Argument(metavar="[all|projector|query|decider]", help="Which services.")] = "all",
    apply: Annotated[
        bool, typer.Option("--apply", help="First apply streams/ and migrations, waiting for both servers.")
    ] = False,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Projector processes, which share the partitions; a core each.")
    ] = 1,
) -> int:
    """Run the services until SIGTERM, then drain; any number may run beside each other.

    /healthz, /readyz and /metrics are served on http.host and http.port (127.0.0.1:9464).
    Logs are JSON on stderr. A second signal stops at once.
    """
    if what not in _WHATS:
        raise typer.BadParameter(f"it is one of {', '.join(_WHATS)}, not {what!r}")
    from coord.ops.serve import What
    from coord.telemetry import logs

    settings = ctx.settings
    logs.configure(settings.log, service=f"coord-{what}")
    return await run(settings, What(what), apply=apply, processes=processes)


async def run(settings: Settings, what: What, *, apply: bool, processes: int = 1) -> int:
    """Prepare if asked, run the services until a signal, drain; returns the exit code."""
    from coord.ops import build, environment, serve
    from coord.ops import settings as ops_settings
    from coord.runtime import signals
    from coord.telemetry import logs

    ops_settings.topology(settings)  # refuse contradictions before anything runs
    group = serve.services(settings, what, processes=processes)
    with signals.interrupts() as received:
        # Said first: what is waited for may be a long time coming.
        logs.get("serve").info(
            "process.starting",
            what=str(what),
            version=build.version(),
            nats=list(settings.nats.urls),
            database=settings.database.url,
            profile=settings.streams.profile,
        )
        if apply and not await _prepared(settings, received.first):
            return signals.EXIT_OK
        return await signals.run(
            group,
            drain_s=settings.service.drain_s,
            received=received,
            notify_socket=environment.notify_socket(),
            watchdog_s=environment.watchdog_s(),
        )


async def _prepared(settings: Settings, asked_to_end: asyncio.Event) -> bool:
    """Apply streams and migrations; False when a signal came first."""
    from coord.ops import serve
    from coord.runtime.service import cancel

    preparing = asyncio.ensure_future(serve.prepare(settings))
    ending = asyncio.ensure_future(asked_to_end.wait())
    try:
        await asyncio.wait({preparing, ending}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(ending)
        await cancel(preparing)
    if preparing.cancelled():
        return False
    preparing.result()
    return True
