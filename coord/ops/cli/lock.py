"""``coord lock``: who holds what, and who waits for it."""

from __future__ import annotations

from typing import Annotated

import typer

from coord.ops.cli import past, stored
from coord.ops.cli.base import Context, command, group

app = group("lock", "Locks, elections and semaphores: who holds one, who waits.")

_COLUMNS = ["lock", "key", "permits", "agent", "instance", "state", "since", "granted_at", "fence"]


@command(app, "ls")
async def ls(
    ctx: Context,
    lock: Annotated[str, typer.Option("--lock", help="Only this one.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Only what it holds or waits for.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only of this fleet.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 100,
) -> None:
    """List who holds and who waits, in the order of their turns, as the database has them."""
    await stored.ls(
        ctx, "locks", _COLUMNS, "Nobody holds or wants such a lock.",
        tenant=tenant, lock=lock, agent=agent, limit=limit,
    )  # fmt: skip


@command(app, "get")
async def get(
    ctx: Context,
    name: Annotated[str, typer.Argument(help="The lock.")],
    key: Annotated[str, typer.Option("--key", "-k", help="Its key; default: its name.")] = "",
    at: past.At = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Of this fleet; default: identity.tenant.")] = "",
) -> int:
    """Show a lock with everything that was said about it, now or as it was: the first `permits` requests hold it."""
    return await past.get(ctx, "lock", tenant, key or name, name, at)
