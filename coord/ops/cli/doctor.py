"""``coord doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coord.ops.cli.bars import bar
from coord.ops.cli.base import Context, Exit, command, time_of
from coord.ops.cli.projection import Stream

if TYPE_CHECKING:
    from coord.ops.audit import Report

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
    audit: Annotated[
        bool, typer.Option("--audit", help="Instead: read the streams again and compare them with the tables.")
    ] = False,
    stream: Annotated[
        Stream | None, typer.Option("--stream", case_sensitive=False, help="With --audit: only this stream.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="With --audit: what was stored from then on: 5m, 2h, or a time.")
    ] = None,
) -> int:
    """Check servers, streams, schema, clocks and flow; exits with 3 when something must be fixed."""
    import msgspec

    from coord.ops import doctor as examination

    if audit:
        return await _audit(ctx, stream, since)
    if stream is not None or since is not None:
        raise typer.BadParameter("--stream and --since belong to --audit")
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


async def _audit(ctx: Context, stream: Stream | None, since: str | None) -> int:
    import msgspec

    from coord.ops import audit as auditing

    begin = None if since is None else time_of(since, "--since")
    reports = []
    async with ctx.bus() as conn, ctx.pool() as pool:
        for one in [stream] if stream else Stream:
            with bar(ctx, f"reading {one.value}") as show:
                report = await auditing.audit(conn, pool, one.value, since=begin, progress=show)
            reports.append(report)
            if ctx.out.is_table:
                _show(ctx, report)
    if not ctx.out.is_table:
        ctx.out.rows([msgspec.to_builtins(report) for report in reports])
    return Exit.UNHEALTHY if any(report.damage_count for report in reports) else Exit.OK


def _show(ctx: Context, report: Report) -> None:
    verdict = ctx.out.style("FAIL", "red") if report.damage_count else ctx.out.style("ok", "green")
    ctx.out.text(
        f"{verdict}  {report.stream}: sequences {report.first_seq} to {report.last_seq}; {report.messages} messages"
        f" read, {report.segments} segments of chains recomputed, {report.rows} rows and dead letters counted"
    )
    for damage in report.damage:
        where = "" if damage.partition is None else f", partition {damage.partition}"
        ctx.out.text(f"  {damage.kind}: {damage.first_seq} to {damage.last_seq}{where}: {damage.detail}")
        ctx.out.text(f"        -> {damage.remedy}")
    unnamed = report.damage_count - len(report.damage)
    if unnamed:
        ctx.out.text(f"  and {unnamed} more")
