"""``coord spool``: what an agent's spool on disk holds; read only, also while the agent uses it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli.base import Context, Exit, command, group, missing

if TYPE_CHECKING:
    from coord.client.spool import Seen

app = group("spool", "What agents keep on disk while there is no broker.")


@command(app, "ls")
def list_records(
    ctx: Context,
    folder: Annotated[Path, typer.Argument(help="The spool's directory.")],
    limit: Annotated[int, typer.Option("--limit", min=0, help="Records printed at most, oldest first.")] = 100,
) -> int:
    """Print what is not acknowledged yet, oldest first; exits with 3 when a part cannot be read, 4 without a spool.

    Takes no lock and changes nothing.  While the agent is writing, the last record may look
    torn: it is not there yet.  What was refused or damaged is in files beside it, and named.
    """
    from coord.client import spool
    from coord.ops.cli.output import size

    if not (folder / "lock").exists():
        return missing(ctx, f"{folder} is not a spool: it has no file named lock.")
    found = spool.look(folder)
    ctx.out.rows([_row(seen) for seen in found.records[:limit]], empty="Everything in this spool is acknowledged.")
    ctx.out.say(f"{found.owner}: {len(found.records)} messages, {size(found.size_bytes)}.")
    for name in found.aside:
        ctx.out.say(f"Kept beside it: {name}")
    for problem in found.problems:
        ctx.out.say(problem)
    return Exit.UNHEALTHY if found.problems else Exit.OK


def _row(seen: Seen) -> dict[str, Any]:
    from datetime import UTC, datetime

    record = seen.record
    return {
        "number": seen.number,
        "at": datetime.fromtimestamp(record.at_ms / 1000, UTC),
        "subject": record.subject,
        "entries": record.count,
        "body_bytes": len(record.body),
        "maybe_sent": seen.maybe_sent,
        "event_id": record.event_id,
    }
