"""``coord bench cache`` and ``coord bench query``: what a cached answer costs, and that none is stale."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coord.ops.cli.base import Context, Exit, command
from coord.ops.cli.bench import _on_own_servers, _print


def add_to(app: typer.Typer) -> None:
    """Make them commands of `coord bench`."""
    command(app, "cache")(cache)
    command(app, "query")(query)


class CachePart(StrEnum):
    """What to measure."""

    L1 = "l1"
    L2 = "l2"
    FLEET = "fleet"
    TRACES = "traces"


async def cache(
    ctx: Context,
    part: Annotated[list[CachePart] | None, typer.Option("--part", help="Only this; repeat for more.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of hits; a figure is the best round's.")] = 5,
    scale: Annotated[float, typer.Option("--scale", min=0.001, help="Multiplies every count and duration.")] = 1.0,
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="How long the fleet asks. [30]")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder with the recordings that fleets replay. [$COORD_TEST_DATA]")
    ] = None,
) -> int:
    """A hit beside cachebox and aiocache, L2, a hundred caches while facts come in, recordings: in two minutes.

    Free ports, temporary files; nothing is left. docs/howto/caches.md says what each figure is.
    Exits with 3 when an answer was stale.
    """
    import msgspec

    from coord.ops import environment
    from coord.ops.bench.caching import PARTS, CachingConfig
    from coord.ops.bench.caching import cache as run
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    variables = environment.variables()
    recorded = variables.get("COORD_TEST_DATA")
    config = CachingConfig(
        data=data or (Path(recorded) if recorded else None),
        parts=tuple(p.value for p in part) if part else PARTS,
        rounds=rounds,
        database=DevStackConfig.from_env(variables, ephemeral=True, nats=False),
    ).scaled(scale)
    if seconds is not None:
        config = msgspec.structs.replace(config, fleet=msgspec.structs.replace(config.fleet, seconds=seconds))
    report = await run(config, ctx.out.say)
    _print(ctx, report)
    return Exit.UNHEALTHY if report["figures"].get("stale_answers") else Exit.OK


async def query(
    ctx: Context,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of each sort of question.")] = 2,
    scale: Annotated[float, typer.Option("--scale", min=0.001, help="Multiplies every duration.")] = 1.0,
    tenants: Annotated[int, typer.Option("--tenants", min=1, help="That ask what is answered quickly.")] = 8,
    slow: Annotated[int, typer.Option("--slow", min=0, help="Tenants besides, whose questions take long.")] = 4,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="cProfile's data of the instance, instead.")
    ] = None,
) -> None:
    """Answers of the query service over NATS and HTTP beside asyncpg's own, and fast tenants beside slow ones: 40 s.

    Free ports, temporary files; nothing is left. docs/howto/query.md says what each figure is.
    """
    from coord.ops import environment
    from coord.ops.bench.querying import QueryingConfig
    from coord.ops.bench.querying import query as run
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    config = QueryingConfig(
        tenants=tenants,
        slow=slow,
        rounds=rounds,
        profile=None if profile is None else str(profile),
        database=DevStackConfig.from_env(environment.variables(), ephemeral=True, nats=False),
    ).scaled(scale)
    _print(ctx, await run(config, ctx.out.say))
