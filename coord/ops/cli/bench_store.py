"""``coord bench queries`` and ``coord bench store``: what the database reaches.

With COORD_TEST_DATABASE_URL in the environment they run in a new database of that server, which is
dropped at the end: so Community figures come from a native Community server.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from coord.ops.cli.base import Context, Exit, command
from coord.ops.cli.bench import _on_own_servers, _print

if TYPE_CHECKING:
    from coord.ops.devstack.stack import DevStackConfig


def add_to(app: typer.Typer) -> None:
    """Make them commands of `coord bench`."""
    command(app, "queries")(queries)
    command(app, "store")(store)


class StorePart(StrEnum):
    """What to measure."""

    INGEST = "ingest"
    REBUILD = "rebuild"
    ARCHIVE = "archive"
    DASHBOARD = "dashboard"
    BYTES = "bytes"


async def store(
    ctx: Context,
    part: Annotated[list[StorePart] | None, typer.Option("--part", help="Only this; repeat for more.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of each side; a figure is their median.")] = 3,
    scale: Annotated[float, typer.Option("--scale", min=0.001, help="Multiplies every count and duration.")] = 1.0,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1_000, help="Facts in the tables when dashboards are asked. [400000]")
    ] = None,
) -> None:
    """Facts in against COPY by hand, dashboards while facts come in, and bytes a fact, in less than two minutes.

    Free ports, temporary files; nothing is left. docs/benchmarks.md says what each figure is.
    """
    import msgspec

    from coord.ops.bench.store import PARTS, StoreConfig
    from coord.ops.bench.store import store as run

    _on_own_servers(ctx)
    config = StoreConfig(
        parts=tuple(p.value for p in part) if part else PARTS, rounds=rounds, database=_database()
    ).scaled(scale)
    if rows is not None:
        config = msgspec.structs.replace(config, rows=rows)
    _print(ctx, await run(config, ctx.out.say))


async def queries(
    ctx: Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Which questions; default: each.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1_000, help="Facts that are made first.")] = 5_000_000,
    days: Annotated[float, typer.Option("--days", min=0.01, help="Over so many days, until now.")] = 7.0,
    warm_s: Annotated[float, typer.Option("--warm-s", min=0, help="Each is asked again for so long.")] = 1.0,
) -> int:
    """Ask every named question over five million facts, and show its plan: some minutes.

    Exits with 3 when one is slower than it may be: 100 ms for those of dashboards, 1 s for the rest.
    """
    from coord.ops.bench import questions as bench
    from coord.ops.cli.bars import bar

    _on_own_servers(ctx)
    config = bench.QuestionsConfig(rows=rows, days=days, warm_s=warm_s, only=tuple(names or ()), database=_database())
    with bar(ctx, "making facts") as progress:
        report = await bench.questions(config, ctx.out.say, progress)
    if ctx.out.is_table:
        ctx.out.rows(bench.table(report))
    else:
        ctx.out.record(report)
    return Exit.OK if all(q["held"] for q in report["questions"]) else Exit.UNHEALTHY


def _database() -> DevStackConfig:
    from coord.ops import environment
    from coord.ops.devstack.stack import DevStackConfig

    variables = environment.variables()
    return DevStackConfig.from_env(
        variables, ephemeral=True, nats=False, database_url=variables.get("COORD_TEST_DATABASE_URL") or None
    )
