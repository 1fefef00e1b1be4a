"""``coord replay --as-tasks``: what is replayed, compared, and drawn."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coord.ops.cli.bars import bar
from coord.ops.cli.base import Context, Exit

if TYPE_CHECKING:
    from coord.ops.replay.as_tasks import Tasked, TaskedConfig
    from coord.ops.replay.recording import Statement
    from coord.ops.replay.waits import Tables, Waits
    from coord.ops.replay.work import Request, Talk

USUAL = "pull,round_robin,least_connections,response_time,resources"


async def replay_as_tasks(
    ctx: Context,
    form: str,
    statements: Iterator[Statement],
    config: TaskedConfig,
    *,
    names: str,
    most: int,
    plot: Path | None,
) -> int:
    """Do it again, and say who waited; `names`: of placements, `most`: lines that count, 0: all."""
    import msgspec

    from coord.ops.replay import chart, work
    from coord.ops.replay.as_tasks import PINNED, Tasked
    from coord.ops.replay.waits import Tables

    if form not in work.FORMATS:
        raise typer.BadParameter(f"--as-tasks: of {' and '.join(work.FORMATS)}, not of {form}")
    placements = _placements(names)
    is_talks = form != work.FORMATS[0]
    found: list[Any] = list(itertools.islice((work.talks if is_talks else work.requests)(statements), most or None))
    total = len(found) * (1 if is_talks else len(placements))
    ended = 0
    with bar(ctx, "replaying") as show:

        def progress(more: int) -> None:
            nonlocal ended
            ended += more
            show(ended, total)

        async with ctx.bus() as conn, ctx.pool() as pool:
            tables, tasked = Tables(pool, config.tenant), Tasked(conn, config, progress)
            if is_talks:
                record, waits = await _talks(tasked, tables, config.prefix(PINNED), found, progress)
            else:
                record, waits = await _requests(tasked, tables, config, found, placements, progress)
    if plot is not None:
        picture = chart.svg(waits, "Waiting by placement and priority, p50 to p99")
        await asyncio.to_thread(plot.write_text, picture, encoding="utf-8")
        record["plot"] = str(plot)
    if ctx.out.is_table:
        ctx.out.rows([msgspec.structs.asdict(one) for one in waits])
        ctx.out.text()
        ctx.out.record(record)
    else:
        ctx.out.record(record | {"waits": msgspec.to_builtins(waits)})
    return Exit.ERROR if record["not_succeeded"] else Exit.OK


def _placements(names: str) -> list[str]:
    from coord.ops.replay.as_tasks import PLACEMENTS

    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not found or not set(found) <= PLACEMENTS.keys():
        raise typer.BadParameter(f"--placement: some of {', '.join(PLACEMENTS)}, with commas between")
    return found


async def _requests(
    tasked: Tasked,
    tables: Tables,
    config: TaskedConfig,
    found: list[Request],
    placements: list[str],
    progress: Callable[[int], None],
) -> tuple[dict[str, Any], list[Waits]]:
    from datetime import UTC, datetime

    from coord.ops.replay.waits import summary

    began = datetime.now(UTC)
    said: list[Waits] = []
    failed = offers = pulls = there = 0
    for placement in placements:
        prefix = config.prefix(placement)
        ids = {f"{prefix}{one.row}" for one in found}
        done = frozenset(row["id"] for row in await tables.tasks(prefix)) & ids
        progress(len(done))
        failed += await tasked.requests(found, placement, done)
        rows = [row for row in await tables.until(tables.tasks, prefix, len(found)) if row["id"] in ids]
        there += len(rows)
        said += summary(placement, rows)
        decided = await tables.offers(prefix, began)
        offers, pulls = offers + decided.offers, pulls + decided.pulls
    record = {
        "requests": len(found), "placements": len(placements), "tasks": there, "offers": offers, "left_to_pull": pulls,
        "not_succeeded": failed,
    }  # fmt: skip
    return record, said


async def _talks(
    tasked: Tasked, tables: Tables, prefix: str, found: list[Talk], progress: Callable[[int], None]
) -> tuple[dict[str, Any], list[Waits]]:
    from coord.ops.replay.as_tasks import PINNED
    from coord.ops.replay.waits import summary

    ids = {f"{prefix}{one.line}" for one in found}
    done = frozenset(row["id"] for row in await tables.talks(prefix)) & ids
    progress(len(done))
    failed = await tasked.talks(found, done)
    steps = await tables.until(tables.tasks, prefix, sum(len(talk.messages) for talk in found))
    rows = [row for row in steps if row["key"] in ids]
    ended = [row for row in await tables.until(tables.talks, prefix, len(found)) if row["id"] in ids]
    record = {
        "conversations": len(found), "workflows": len(ended), "steps": len(rows),
        "handoffs": sum(row["handoffs"] for row in ended),
        "agents": len({row["claimant"] for row in rows}), "not_succeeded": failed,
    }  # fmt: skip
    return record, summary(PINNED, rows)
