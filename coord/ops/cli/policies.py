"""``coord db policies``: what compresses, drops and counts, when, and what it came to."""

from __future__ import annotations

from typing import Any

import typer

from coord.ops.cli.base import Context, Exit, command


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "policies")(policies)


async def policies(ctx: Context) -> int:
    """Show every policy: next run, last success, sizes; exits with 3 when one failed, is held or refused.

    The server's own jobs (community), and the newest of each step that coord's maintenance took. Compression's sizes
    are of what is compressed, other jobs' of the whole table.
    """
    from coord.core import upkeep
    from coord.store import maintenance

    async with ctx.pool() as pool, pool.acquire() as conn:
        found = await maintenance.policies(conn)
        now, last, _ = await maintenance.night(conn)
    nightly = upkeep.next_due(now, last, ctx.settings.maintenance.at)
    rows = [_row(policy, nightly) for policy in found]
    ctx.out.rows(rows, empty="There is no policy yet: nothing was maintained, and the server has no jobs.")
    troubled = [row for row in rows if row["state"] in {"failed", "held", "refused"}]
    for row in troubled:
        ctx.out.say(f"{row['job']} {row['relation']}: {row['state']}: {row['detail']}".replace(" :", ":"))
    if ctx.out.is_table:
        ctx.out.say(f"Retention of coord's own is due {nightly:%Y-%m-%d %H:%M} UTC (maintenance.at).")
    return Exit.UNHEALTHY if troubled else Exit.OK


_NIGHTLY = {"retention", "ended", "anchors", "expire", "steps", "archive"}


def _row(policy: dict[str, Any], nightly: Any) -> dict[str, Any]:
    by_coord = policy["runs_it"] == "coord"
    is_nightly = by_coord and (policy["job"] in _NIGHTLY or policy["job"].startswith("archive_"))
    return {
        "job": policy["job"],
        "relation": policy["relation"],
        "runs_it": policy["runs_it"],
        "state": policy["state"],
        "next_run": nightly if is_nightly else policy["next_run"],
        "last_success": policy["last_success"],
        "bytes_before": policy["bytes_before"],
        "bytes_after": policy["bytes_after"],
        "detail": policy["detail"],
    }
