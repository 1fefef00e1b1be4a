"""``coord status`` and ``coord top``: is it well, and what is it doing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli.base import Context, Exit, command
from coord.ops.cli.output import Format, duration, size

if TYPE_CHECKING:
    from coord.bus.connection import Connection
    from coord.errors import CoordError
    from coord.ops.stats import Problem, Snapshot
    from coord.ops.top import Rates
    from coord.store.pool import Pool


_CAPABILITIES_SHOWN = 30


def add_to(app: typer.Typer) -> None:
    """Register both commands at the root: they are about everything."""
    command(app, "status")(status)
    command(app, "top")(top)


async def status(ctx: Context) -> int:
    """Say whether facts flow: broker, streams, projection, database; exits with 3 when they do not."""
    from coord.ops import stats
    from coord.ops.judge import healthy, judge

    async with _both(ctx) as (conn, pool):
        snapshot = await stats.collect(conn, pool)
    problems = judge(snapshot)
    well = healthy(problems)
    if ctx.out.is_table:
        _show(ctx, snapshot)
        _show_problems(ctx, problems)
        ctx.out.text(ctx.out.style("healthy", "green") if well else ctx.out.style("unhealthy", "red"))
    else:
        import msgspec

        ctx.out.record({"healthy": well, "problems": msgspec.to_builtins(problems), **msgspec.structs.asdict(snapshot)})
    return Exit.OK if well else Exit.UNHEALTHY


async def top(
    ctx: Context,
    once: Annotated[bool, typer.Option("--once", help="Measure once over --interval, print and exit.")] = False,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.2, max=3600, help="Seconds per picture.")] = 2.0,
) -> int:
    """Show rates, lag, streams against their limits, consumers and dead letters; Ctrl-C ends it.

    With `-o jsonl` it prints one record an interval; with `--once` it exits with 3 when unhealthy.
    """
    from coord.ops import stats
    from coord.ops.judge import healthy, judge
    from coord.ops.top import rates

    async with _both(ctx) as (conn, pool):
        before = await stats.collect(conn, pool, listen=False)
        if not once and ctx.output is Format.TABLE:
            await _live(conn, pool, before, interval)
            return Exit.OK
        while True:
            await asyncio.sleep(interval)
            after = await stats.collect(conn, pool)
            problems = judge(after)
            measured = rates(before, after)
            if ctx.output is Format.TABLE:
                _show(ctx, after, measured)
                _show_problems(ctx, problems)
            else:
                record = _record(after, measured, problems)
                ctx.out.record(record) if once else ctx.out.line(record)
            if once:
                return Exit.OK if healthy(problems) else Exit.UNHEALTHY
            before = after


@contextlib.asynccontextmanager
async def _both(ctx: Context) -> AsyncIterator[tuple[Connection | CoordError, Pool | CoordError]]:
    """Broker and database; the one that is away is its error instead."""
    from coord.errors import CoordError

    _ = ctx.settings  # wrong settings are wrong settings, not an unhealthy broker
    async with contextlib.AsyncExitStack() as stack:
        conn: Connection | CoordError
        pool: Pool | CoordError
        try:
            conn = await stack.enter_async_context(ctx.bus())
        except CoordError as exc:
            conn = exc
        try:
            pool = await stack.enter_async_context(ctx.pool())
        except CoordError as exc:
            pool = exc
        yield conn, pool


async def _live(conn: Any, pool: Any, before: Snapshot, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from coord.ops import environment, stats
    from coord.ops.judge import judge
    from coord.ops.top import picture, rates

    console = Console(no_color=bool(environment.variables().get("NO_COLOR")))
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        live.update(picture(before, None, judge(before)), refresh=True)
        while True:
            await asyncio.sleep(interval)
            after = await stats.collect(conn, pool)
            live.update(picture(after, rates(before, after), judge(after)), refresh=True)
            before = after


def _record(snapshot: Snapshot, measured: Rates, problems: list[Problem]) -> dict[str, Any]:
    import msgspec

    from coord.ops.judge import healthy

    return {
        "healthy": healthy(problems),
        "rates": msgspec.to_builtins(measured),
        "problems": msgspec.to_builtins(problems),
        **msgspec.structs.asdict(snapshot),
    }


def _show(ctx: Context, snapshot: Snapshot, measured: Rates | None = None) -> None:
    import msgspec

    from coord.ops.top import consumer_rows, projection_rows, stream_rows

    out = ctx.out
    if snapshot.broker is not None:
        b = snapshot.broker
        out.text(f"{out.style('nats', 'bold')}       {b.url}  nats-server {b.version}  round trip {duration(b.rtt_s)}")
    if snapshot.database is not None:
        d = snapshot.database
        kind = f"TimescaleDB {d.timescaledb}" if d.timescaledb else "no TimescaleDB"
        out.text(
            f"{out.style('database', 'bold')}   {d.url}  PostgreSQL {d.postgres}, {kind}, edition {d.edition},"
            f" {size(d.bytes)}"
        )
    if snapshot.instances is not None:
        out.text(f"{out.style('projectors', 'bold')} {', '.join(snapshot.instances) or 'none'}")
    if snapshot.agents:
        out.text(
            f"{out.style('agents', 'bold')}     {', '.join(f'{n} {state}' for state, n in snapshot.agents.items())}"
        )
    if snapshot.queues is not None:
        q = snapshot.queues
        out.text(f"{out.style('queues', 'bold')}     {q.consumers} consumers of at most {q.consumers_max}")
    for rows in (
        [msgspec.structs.asdict(c) for c in snapshot.capabilities[:_CAPABILITIES_SHOWN]],
        stream_rows(snapshot, measured),
        consumer_rows(snapshot, measured),
        projection_rows(snapshot),
        [
            {"dead letters": d.letters, "stream": d.stream, "code": d.code, "last_at": d.last_at}
            for d in snapshot.dead_letters
        ],
    ):
        if rows:
            out.text()
            out.rows(rows)
    out.text()


def _show_problems(ctx: Context, problems: list[Problem]) -> None:
    for problem in problems:
        mark = ctx.out.style(problem.severity, "red" if problem.severity == "error" else "yellow")
        ctx.out.text(f"{mark}: {problem.what}: {problem.message} - {problem.remedy}")
