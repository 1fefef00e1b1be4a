"""``coord signal``: latches that agents raise and wait for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import options, past
from coord.ops.cli.base import Context, Exit, command, fail, group

if TYPE_CHECKING:
    from coord.core.signals import Latch

app = group("signal", "Signals: durable latches that are raised once and awaited from anywhere.")

_KEY = "signals"

_Name = Annotated[str, typer.Argument(help="Of the signal.")]
_Key = Annotated[str, typer.Option("--key", "-k", help="Of the piece of work it belongs to, such as a workflow's id.")]


@command(app, "raise")
async def raise_(
    ctx: Context,
    name: _Name,
    data: Annotated[str, typer.Option("--data", "-d", help="JSON for those who wait.")] = "",
    key: _Key = _KEY,
    agent: options.Agent = "",
    tenant: options.Tenant = "",
) -> None:
    """Raise a signal, for good; whoever waits for it goes on."""
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        first = await me.signals.raise_(name, _data(data), key=key)
    if ctx.out.is_table:
        ctx.out.text(f"raised {name}" if first else f"{name} was raised before")
    else:
        ctx.out.record({"signal": name, "key": key, "first": first})


@command(app, "wait")
async def wait(
    ctx: Context,
    names: Annotated[list[str], typer.Argument(help="Of the signals.")],
    any_: Annotated[bool, typer.Option("--any", help="Until one of them is raised; default: all.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds; default: for as long as it takes.")] = 0.0,
    key: _Key = _KEY,
    agent: options.Agent = "",
    tenant: options.Tenant = "",
) -> int:
    """Wait until signals are raised and print their data; exit code 3 when they were not in time."""
    from coord.errors import DeadlineExceeded

    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        waits = me.signals.wait_any if any_ else me.signals.wait_all
        try:
            found = await waits(*names, timeout_s=timeout_s or None, key=key)
        except DeadlineExceeded as exc:
            if ctx.out.is_table:
                ctx.out.say(f"{exc.message}: {', '.join(exc.details.get('missing', []))}")
            else:
                fail(ctx.out, exc)
            return Exit.UNHEALTHY
    ctx.out.rows([{"signal": name, "data": data} for name, data in found.items()], ["signal", "data"])
    return Exit.OK


@command(app, "ls")
async def ls(
    ctx: Context,
    name: Annotated[str, typer.Option("--name", help="Only this one.")] = "",
    key: Annotated[str, typer.Option("--key", "-k", help="Only of this piece of work; default: all.")] = "",
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those for which somebody waits.")] = False,
    agent: options.Agent = "",
    tenant: options.Tenant = "",
) -> None:
    """List signals as the log has them: which are raised, who waits for which since when, who waits in a circle."""
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        latches = await me.signals.ls(key=key or None)
    shown = (latch for latch in latches if name in ("", latch.id) and (latch.waits or not waiting))
    rows = [row for latch in shown for row in _rows(latch)]
    columns = ["signal", "key", "raised", "by", "waits", "since", "deadlock"]
    ctx.out.rows(rows, columns, empty="No signal is raised or awaited.")


@command(app, "get")
async def get(ctx: Context, name: _Name, key: _Key = _KEY, at: past.At = "", tenant: options.Tenant = "") -> int:
    """Show a signal with everything that was said about it, now or as it was."""
    return await past.get(ctx, "signal", tenant, key, name, at)


def _rows(latch: Latch) -> list[dict[str, Any]]:
    about = {"signal": latch.id, "key": latch.key, "raised": _time(latch.raised_at), "by": latch.raised_by}
    if not latch.waits:
        return [{**about, "waits": None, "since": None, "deadlock": None}]
    return [
        {**about, "waits": wait.agent, "since": _time(wait.since), "deadlock": wait.deadlock}
        for wait in latch.waits.values()
    ]


def _time(unix_s: float | None) -> datetime | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC)


def _data(text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"not JSON: {exc}", param_hint="--data") from exc
