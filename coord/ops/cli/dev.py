"""``coord dev``: everything on this machine, for development."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coord.ops.cli.base import Context, Exit, callback, command, missing

app = typer.Typer(name="dev", pretty_exceptions_enable=False)

_PathOption = typer.Option("--path", "--data", metavar="DIR", help="The stack's folder; default: .coord.")
_USUAL = Path(".coord")


@callback(app)
async def dev(
    ctx: Context,
    path: Annotated[Path | None, _PathOption] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="A temporary folder, removed at the end.")] = False,
    nats_port: Annotated[int, typer.Option("--nats-port", min=0, max=65535, help="Tried first; 0: any.")] = 4222,
    database_port: Annotated[
        int, typer.Option("--database-port", min=0, max=65535, help="Tried first; 0: any.")
    ] = 5432,
    http_port: Annotated[
        int | None, typer.Option("--http-port", min=0, max=65535, help="Metrics and probes (http.port).")
    ] = None,
) -> int:
    """Start nats-server, a database and every service here; Ctrl-C drains and ends them.

    No Docker, nothing installed system-wide, loopback only. A second start finds the first.
    --database URL uses a database of yours instead of starting one.
    """
    if ctx.nats is not None:
        raise typer.BadParameter("coord dev starts a nats-server of its own: leave out --nats")
    if ephemeral and path is not None:
        raise typer.BadParameter("either --ephemeral, whose folder is a temporary one, or --path")
    from coord.ops import dev as ops_dev

    config = ops_dev.DevConfig(
        path=path or _USUAL,
        ephemeral=ephemeral,
        database_url=ctx.database,
        nats_port=nats_port,
        database_port=database_port,
        http_port=http_port,
    )
    return await ops_dev.run(config, ctx.out, file=ctx.config)


@command(app, "env")
def env(ctx: Context, path: Annotated[Path, _PathOption] = _USUAL) -> int:
    """Print the running stack's addresses: `eval "$(coord dev env)"`; exits with 4 when none runs."""
    import shlex

    from coord.ops.dev import variables
    from coord.ops.devstack.stack import find

    state = find(path)
    if state is None:
        return missing(ctx, f"No dev stack runs in {path}: start one with `coord dev`.")
    if ctx.out.is_table:
        for name, value in variables(state).items():
            ctx.out.text(f"export {name}={shlex.quote(value)}")
    else:
        ctx.out.record(variables(state))
    return Exit.OK
