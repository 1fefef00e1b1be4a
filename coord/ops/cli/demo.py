"""``coord demo``: a fleet that reviews a source tree, and the answers out of the database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coord.ops.cli.base import Context, Exit, command


def add_to(app: typer.Typer) -> None:
    """Register the command at the root."""
    command(app, "demo")(demo)


async def demo(
    ctx: Context,
    path: Annotated[
        Path | None, typer.Option("--path", metavar="DIR", help="The source tree; default: Python's standard library.")
    ] = None,
    agents: Annotated[int, typer.Option("--agents", min=3, max=200, help="How many, each with a connection.")] = 12,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The dev stack's folder.")] = Path(".coord"),
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="A temporary folder, removed at the end.")] = False,
) -> int:
    """Let a fleet of agents review a source tree; then ask the database what it did.

    Starts nats-server and a database, ends both; the data stays in --data.
    """
    if ctx.nats is not None:
        raise typer.BadParameter("the demo starts a nats-server of its own: leave out --nats")
    from coord.ops import environment
    from coord.ops.demo.run import DemoConfig
    from coord.ops.demo.run import demo as run
    from coord.ops.devstack.stack import DevStackConfig

    stack = DevStackConfig.from_env(
        environment.variables(), data_dir=data, ephemeral=ephemeral, database_url=ctx.database
    )
    agreed = await run(DemoConfig(path=path, agents=agents, stack=stack), ctx.out)
    return Exit.OK if agreed else Exit.ERROR
