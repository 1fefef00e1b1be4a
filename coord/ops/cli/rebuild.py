"""``coord projection rebuild``: the tables of entities made anew from history, beside the live ones."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from coord.ops.cli.bars import bar
from coord.ops.cli.base import Context, Exit, command

if TYPE_CHECKING:
    from coord.projector.rebuild import Rebuilder
    from coord.store.pool import Pool
    from coord.store.shadow import Compared


def add_to(app: typer.Typer) -> None:
    """Have the command among those of a noun."""
    command(app, "rebuild")(rebuild)


async def rebuild(
    ctx: Context,
    since: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="TIME|SEQ",
            help="Only entities heard of from then on: 5m (ago), a time, a sequence, or EPOCH:SEQ.",
        ),
    ] = "",
    log: Annotated[
        bool, typer.Option("--log", help="First make the copy of the log whole from the log's window, samples too.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare and swap nothing; exits with 3 when the tables differ.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept-changes", help="Swap also when the rebuilt tables differ from the live ones.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Give up a rebuild that was begun; its tables go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Make the tables of entities anew, compare them with the live ones, and put them in their places.

    From the copy of the log and the archive, while the projector goes on. Killed and started again it goes on where
    it was. Nothing is said to anybody: no task is submitted, no notice published.
    """
    from coord.ops.cli import past
    from coord.projector import rebuild as rebuilding
    from coord.store.archive.files import Files

    retain = ctx.settings.ages.retain_days
    kept = None if retain is None else timedelta(days=retain)
    files = Files.open(ctx.settings.archive) if ctx.settings.archive.url else None
    async with rebuilding.pools(ctx.settings.database) as (writer, reader):
        if drop:
            await rebuilding.Rebuilder(writer, reader).drop()
            return Exit.OK
        if log:
            await _mend(ctx, writer)
        with bar(ctx, "Rebuilding", unit="facts") as told:
            rebuilder = rebuilding.Rebuilder(writer, reader, files=files, kept=kept, told=told)
            if await rebuilder.begin(past.point(since) if since else None):
                began = rebuilder.progress
                ctx.out.say(
                    f"Going on with the rebuild of {began.began_at:%Y-%m-%d %H:%M}: {began.facts:,} facts done."
                )
                if since:
                    raise typer.BadParameter(
                        "it was begun with what it was begun with: --drop it first", param_hint="--from"
                    )
            made = await rebuilder.build()
        compared = await rebuilder.compare()
        ctx.out.rows([_row(one) for one in compared])
        rate = made.facts / made.seconds if made.seconds else 0.0
        ctx.out.say(f"{made.facts:,} facts in {made.seconds:,.1f} s, {rate:,.0f}/s.")
        if made.refused:
            ctx.out.say(f"{made.refused:,} facts that the projector once believed are refused now: see the warnings.")
        if made.carried:
            ctx.out.say(
                f"{made.carried:,} rows are as they were: what led to them is not in the history, or not asked for."
            )
        return await _decide(ctx, rebuilder, compared, check=check, accept=accept, yes=yes)


async def _mend(ctx: Context, pool: Pool) -> None:
    from coord.projector import mending
    from coord.wire import subjects

    days = ctx.settings.archive.drop_days if ctx.settings.archive.url else ctx.settings.ages.retain_days
    kept = None if days is None else timedelta(days=days)
    async with ctx.bus() as conn:
        for stream in (subjects.EVENTS, subjects.TELEMETRY):
            with bar(ctx, f"Comparing {stream}", unit="messages") as told:
                found = await mending.mend(conn, pool, stream, kept=kept, told=told)
            ctx.out.say(
                f"{stream}: {found.messages:,} messages in the log, {found.rows:,} rows;"
                f" {found.missing:,} were missing, {found.changed:,} said something else."
            )
            if found.left:
                ctx.out.say(f"{found.left:,} rows are in the archive or about to be dropped, and were left alone.")


async def _decide(
    ctx: Context, rebuilder: Rebuilder, compared: list[Compared], *, check: bool, accept: bool, yes: bool
) -> int:
    equal = all(one.is_equal for one in compared)
    if check:
        await rebuilder.drop()
        return Exit.OK if equal else Exit.UNHEALTHY
    if not equal and not accept:
        from coord.errors import RebuildDiffers

        wrong = next(one for one in compared if not one.is_equal)
        raise RebuildDiffers(
            relation=wrong.relation, only_live=wrong.only_live, only_rebuilt=wrong.only_rebuilt, differ=wrong.differ
        )
    if not yes and not (sys.stdin.isatty() and typer.confirm("Swap the tables?", err=True)):
        ctx.out.say("Not swapped; what was made stays until it is: say --yes to do it, --drop to give it up.")
        return Exit.ERROR
    await rebuilder.swap()
    ctx.out.say("The tables are the rebuilt ones now.")
    return Exit.OK


def _row(one: Compared) -> dict[str, object]:
    return {
        "table": one.relation,
        "rows": one.live,
        "rebuilt": one.rebuilt,
        "hash": one.live_hash,
        "rebuilt_hash": one.rebuilt_hash,
        "only_live": one.only_live,
        "only_rebuilt": one.only_rebuilt,
        "differ": one.differ,
    }
