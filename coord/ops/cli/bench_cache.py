"""``coord bench cache``: what a cached answer costs, and that none is stale."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coord.ops.cli.base import Context, Exit, command
from coord.ops.cli.bench import _on_own_servers, _print


def add_to(app: typer.Typer) -> None:
    """Make it a command of `coord bench`."""
    command(app, "cache")(cache)


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
