"""``coord projection``: how far the tables are, and an operator's decision when a partition is stopped."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import rebuild
from coord.ops.cli.base import Context, Exit, command, group

if TYPE_CHECKING:
    from coord.core.checkpoint import Checkpoint

app = group("projection", "The projection of the log into tables: checkpoints, lag, epochs, tables made anew.")
rebuild.add_to(app)


class Stream(StrEnum):
    """The streams that are projected."""

    EVENTS = "EVENTS"
    TELEMETRY = "TELEMETRY"


class From(StrEnum):
    """Where a new epoch begins."""

    FIRST = "first"
    END = "end"


@command(app, "status")
async def status(
    ctx: Context,
    stream: Annotated[Stream | None, typer.Option("--stream", case_sensitive=False, help="Only this stream.")] = None,
) -> int:
    """Show every partition's checkpoint against its stream; exits with 3 when one cannot go on."""
    from coord.ops import projection

    async with ctx.bus() as conn, ctx.pool() as pool:
        rows = await projection.status(conn, pool, [stream.value] if stream else [s.value for s in Stream])
    columns = ["stream", "partition", "state", "epoch", "seq", "pending", "lag_seconds", "silent_seconds", "stored_at"]
    ctx.out.rows([r.record() for r in rows], columns, empty="Nothing was ever projected: start `coord serve all`.")
    stopped = [r for r in rows if r.problem is not None]
    for code in sorted({r.problem.code for r in stopped if r.problem}):
        one = next(r for r in stopped if r.problem and r.problem.code == code)
        assert one.problem is not None
        ctx.out.say(f"{one.stream}: {one.problem.message} [{code}] - {one.problem.remedy}")
    return Exit.UNHEALTHY if stopped else Exit.OK


@command(app, "new-epoch")
async def new_epoch(
    ctx: Context,
    stream: Annotated[Stream, typer.Argument(case_sensitive=False, help="EVENTS or TELEMETRY.")],
    partition: Annotated[
        list[int] | None, typer.Option("--partition", min=0, max=15, help="Only this one; repeat for more.")
    ] = None,
    start: Annotated[
        From, typer.Option("--from", help="first: project what the stream holds; end: only what comes from now on.")
    ] = From.FIRST,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Accept the stream as it is now and go on from there, in a new epoch.

    For a stream that was made anew or has lost what was not projected yet. Rows of the old
    incarnation stay; the epoch tells them apart.
    """
    from coord.ops import projection

    async with ctx.bus() as conn, ctx.pool() as pool:
        plan = await projection.plan_new_epoch(conn, pool, stream.value, partition, at_end=start is From.END)
        ctx.out.say(plan.describe())
        if not yes and not _agrees(ctx):
            return Exit.ERROR
        checkpoints, lost = await projection.new_epoch(pool, plan)
    for relation, count in lost.items():
        if count:
            ctx.out.say(f"{relation}: {count:,} lost with the log that held them.")
    ctx.out.rows([_row(c) for c in checkpoints])
    return Exit.OK


def _agrees(ctx: Context) -> bool:
    if not sys.stdin.isatty():
        ctx.out.say("Nobody to ask: say --yes to do it.")
        return False
    return typer.confirm("Open the new epoch?", err=True)


def _row(checkpoint: Checkpoint) -> dict[str, Any]:
    created: datetime = checkpoint.stream_created
    return {
        "stream": checkpoint.stream,
        "partition": checkpoint.partition,
        "epoch": checkpoint.epoch,
        "seq": checkpoint.seq,
        "stream_created": created,
    }
