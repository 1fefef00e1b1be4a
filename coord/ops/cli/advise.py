"""``coord db advise``: what to change about the database, and when its disk is full."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Annotated

import typer

from coord.ops.cli.base import Context, Exit, command


def add_to(app: typer.Typer) -> None:
    """Make it a command of `coord db`."""
    command(app, "advise")(advise)


async def advise(
    ctx: Context,
    disk_gib: Annotated[
        float | None,
        typer.Option("--disk-gib", min=0, help="What the database may take; default: its disk, where it is here."),
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option("--memory-gib", min=0.01, help="What may cache it; default: effective_cache_size.")
    ] = None,
) -> int:
    """Say which indexes nobody uses or are missing, whether chunks fit into memory, and when the disk is full.

    Changes nothing. Exits with 3 when something is urgent.
    """
    import msgspec

    from coord.core import advice
    from coord.store.advice import gather

    gib = 2**30
    async with ctx.pool() as pool, pool.acquire() as conn:
        server = await gather(
            conn,
            memory=None if memory_gib is None else int(memory_gib * gib),
            capacity=None if disk_gib is None else int(disk_gib * gib),
            retain_days=ctx.settings.ages.retain_days,
        )
    known = server.known
    if disk_gib is None and server.data_directory is not None:
        room = await asyncio.to_thread(_free_here, Path(server.data_directory), pool.config.url)
        known = msgspec.structs.replace(known, disk=msgspec.structs.replace(known.disk, room=room))
    found = advice.advise(known)
    if ctx.out.is_table:
        ctx.out.rows([msgspec.structs.asdict(one) for one in found])
    else:
        ctx.out.record(
            {
                "advice": [msgspec.structs.asdict(one) for one in found],
                "forecast": msgspec.to_builtins(advice.forecast(known.disk)),
            }
        )
    return Exit.UNHEALTHY if any(one.severity == "urgent" for one in found) else Exit.OK


def _free_here(folder: Path, url: str) -> int | None:
    """Free bytes of the disk under a folder; None unless the server, and so its folder, is on this machine."""
    from urllib.parse import urlsplit

    if (urlsplit(url).hostname or "localhost") not in {"localhost", "127.0.0.1", "::1"} or not folder.parent.is_dir():
        return None
    try:
        return shutil.disk_usage(folder.parent).free
    except OSError:
        return None
