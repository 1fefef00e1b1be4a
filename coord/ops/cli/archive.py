"""``coord db archive``: chunks of facts and samples as Parquet, verified before they leave the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord import errors, limits
from coord.ops.cli.base import Context, Exit, command, group, time_of

if TYPE_CHECKING:
    from coord.core.archive import Piece
    from coord.store.archive.run import Done, Report

app = group("archive", "Old facts and samples as Parquet: verified before they leave the database.")


class Relation(StrEnum):
    """Which table."""

    EVENT = "event"
    METRIC_SAMPLE = "metric_sample"


_DRY_RUN = typer.Option("--dry-run", help="Only say what would be done.")


@command(app, "run")
async def run(ctx: Context, dry_run: Annotated[bool, _DRY_RUN] = False) -> int:
    """Write, verify and drop the chunks that are old enough; exits with 3 when something is wrong with one."""
    from coord.core.archive import RELATIONS
    from coord.store import editions
    from coord.store.archive import run as archive

    config = ctx.settings.archive
    async with ctx.pool() as pool:
        async with pool.acquire() as conn:
            short = editions.too_short(await editions.detect_async(conn), ctx.settings.ages, config)
        if short is not None:
            raise errors.SettingsError(short)
        if dry_run:
            ctx.out.rows(
                [
                    {"step": a.step, "relation": a.relation, "start": a.span.start, "end": a.span.end}
                    for relation in RELATIONS
                    for a in await archive.planned(pool, config, relation)
                ],
                empty="Nothing is due.",
            )
            return Exit.OK
        report = await archive.run(pool, config, told=_told(ctx), at_once=limits.ARCHIVE_AT_ONCE)
    return _end(ctx, report)


@command(app, "ls")
async def ls(
    ctx: Context,
    files: Annotated[bool, typer.Option("--files", help="Each file, instead of each chunk.")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Only what is not in the database any more.")] = False,
) -> None:
    """List what is in the archive."""
    from coord.store.archive import pieces

    async with ctx.pool() as pool, pool.acquire() as conn:
        listed = [p for p in await pieces.listed(conn) if p.state == "dropped" or not cold]
        if files:
            root = ctx.settings.archive.safe_url.partition("?")[0].rstrip("/")
            rows = [
                {
                    "relation": piece.relation,
                    "state": piece.state,
                    "tenant": file.tenant,
                    "day": str(file.day),
                    "kind": file.kind,
                    "rows": file.rows,
                    "bytes": file.bytes,
                    "epoch": file.epoch,
                    "seq_first": file.seq_first,
                    "seq_last": file.seq_last,
                    "sha256": file.sha256,
                    "path": f"{root}/{file.path}",
                }
                for piece in listed
                for file in await pieces.files_of(conn, piece)
            ]
        else:
            rows = [_row(piece) for piece in listed]
    ctx.out.rows(rows, empty="The archive is empty.")


@command(app, "verify")
async def verify(ctx: Context) -> int:
    """Read every file back and compare it with its checksums; names each that is not whole and exits with 3."""
    from coord.store.archive import run as archive

    async with ctx.pool() as pool:
        report = await archive.verify(pool, ctx.settings.archive, told=_told(ctx))
    return _end(ctx, report)


@command(app, "restore")
async def restore(
    ctx: Context,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="Rows stored from then on: 30d, 2026-03-01, …")],
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="Until before then.")] = "0s",
    relation: Annotated[Relation, typer.Option("--table", help="Which rows.")] = Relation.EVENT,
    keep: Annotated[
        float, typer.Option("--keep", metavar="DAYS", help="They stay in the database so long at least.")
    ] = limits.ARCHIVE_RESTORE_KEEP_DAYS,
    dry_run: Annotated[bool, _DRY_RUN] = False,
) -> int:
    """Bring cold rows of a time back into the database, chunk by chunk."""
    from coord.store.archive import restore as archive

    first, last = time_of(since, "--since"), time_of(until, "--until")
    async with ctx.pool() as pool:
        if dry_run:
            found = await archive.candidates(pool, since=first, until=last, relation=relation.value)
            ctx.out.rows([_row(piece) for piece in found], empty="Nothing of that time is cold.")
            return Exit.OK
        report = await archive.restore(
            pool,
            ctx.settings.archive,
            since=first,
            until=last,
            relation=relation.value,
            keep=timedelta(days=keep),
            told=_told(ctx),
        )
    return _end(ctx, report)


@command(app, "purge")
async def purge(ctx: Context, dry_run: Annotated[bool, _DRY_RUN] = False) -> int:
    """Remove files of dropped chunks that are older than archive.keep_days: their rows are gone for good."""
    from coord.store.archive import run as archive

    config = ctx.settings.archive
    async with ctx.pool() as pool:
        if dry_run:
            rows = [_row(piece) for piece in await archive.purged_next(pool, config)]
            ctx.out.rows(rows, empty="Nothing is old enough.")
            return Exit.OK
        report = await archive.purge(pool, config, told=_told(ctx))
    return _end(ctx, report)


def _told(ctx: Context) -> Callable[[Done], Awaitable[None]]:
    async def told(done: Done) -> None:
        rows = f", {done.piece.rows:,} rows" if done.piece.rows else ""
        ctx.out.say(f"{done.step} {done.piece}{rows}: {done.piece.state} ({done.seconds:.1f} s)")

    return told


def _end(ctx: Context, report: Report) -> int:
    """The whole in one record, each problem in a line."""
    steps = sorted({done.step for done in report.done})
    ctx.out.record(
        {
            "chunks": {step: sum(done.step == step for done in report.done) for step in steps},
            "rows": {step: report.rows(step) for step in steps},
            "problems": [problem.message for problem in report.problems],
            "seconds": round(report.seconds, 3),
        }
    )
    for problem in report.problems:
        ctx.out.say(f"coord: {problem.message} [{problem.code}] - {problem.remedy}")
    return Exit.UNHEALTHY if report.problems else Exit.OK


def _row(piece: Piece) -> dict[str, Any]:
    return {
        "piece": piece.piece,
        "relation": piece.relation,
        "start": piece.start,
        "end": piece.end,
        "state": piece.state,
        "rows": piece.rows,
        "bytes": piece.bytes,
        "verified_at": piece.verified_at,
        "restored_until": piece.restored_until,
    }
