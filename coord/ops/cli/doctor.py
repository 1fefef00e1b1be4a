"""``coord doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from coord.ops.cli.base import Context, Exit, command

_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red"), "skip": ("skip", "dim")}


def add_to(app: typer.Typer) -> None:
    """Register the command at the root."""
    command(app, "doctor")(doctor)


async def doctor(
    ctx: Context,
    preflight: Annotated[bool, typer.Option("--preflight", help="Also what only production needs.")] = False,
    monitor: Annotated[
        str | None, typer.Option("--monitor", metavar="URL", help="nats-server's monitoring pages (http://HOST:8222).")
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="State one fact and wait until it is a row.")] = False,
) -> int:
    """Check servers, streams, schema, clocks and flow; exits with 3 when something must be fixed."""
    import msgspec

    from coord.ops import doctor as examination

    checks = await examination.examine(ctx.loaded, preflight=preflight, monitor=monitor, probe=probe)
    worst = examination.verdict(checks)
    if not ctx.out.is_table:
        ctx.out.rows([msgspec.to_builtins(check) for check in checks])
        return Exit.UNHEALTHY if worst == "fail" else Exit.OK
    width = max(len(check.name) for check in checks)
    area = ""
    for check in checks:
        if check.area != area:
            area = check.area
            ctx.out.text(ctx.out.style(area, "bold"))
        word, colour = _MARKS[check.state]
        ctx.out.text(f"  {ctx.out.style(f'{word:<4}', colour)}  {check.name:<{width}}  {check.detail}")
        if check.fix:
            ctx.out.text(f"        {'':<{width}}  -> {check.fix}")
    counted = {state: sum(c.state == state for c in checks) for state in ("fail", "warn")}
    ctx.out.say(f"{len(checks)} checks: {counted['fail']} to fix, {counted['warn']} to look at.")
    return Exit.UNHEALTHY if worst == "fail" else Exit.OK
