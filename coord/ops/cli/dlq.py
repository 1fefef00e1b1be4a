"""``coord dlq``: what could not be believed, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import bulk
from coord.ops.cli.base import Context, Exit, command, group, missing

if TYPE_CHECKING:
    from coord.client.connect import Coord

_NAMED_MAX = 10
"""Workflows that are named; the others are counted."""

app = group("dlq", "Dead letters: messages parked with the reason.")


@command(app, "ls")
async def ls(
    ctx: Context,
    stream: Annotated[str, typer.Option("--stream", help="Only of EVENTS or TELEMETRY.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only of this fleet.")] = "",
    code: Annotated[str, typer.Option("--code", help="Only with this error code, such as wire.author.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List dead letters, newest first."""
    from coord.store import queries

    async with ctx.pool() as pool, pool.acquire() as conn:
        rows = await queries.run(conn, "dead_letters", stream=stream.upper(), tenant=tenant, code=code, limit=limit)
        dead = ctx.out.is_table and await queries.run(conn, "tasks_dead", tenant=tenant, of="none", limit=1)
    columns = ["dead_at", "stream", "seq", "idx", "code", "reason", "tenant", "agent", "body_bytes"]
    ctx.out.rows([dict(row) for row in rows], columns, empty="There are no dead letters.")
    if rows and ctx.out.is_table:
        ctx.out.say(f"One of them whole: coord dlq show {rows[0]['seq']} --stream {rows[0]['stream']}")
    if dead:
        whose = dead[0]["tenant"]
        ctx.out.say(f"Tasks ended without success: coord dlq redrive --tenant {whose} --dry-run lists that fleet's.")


@command(app, "show")
async def show(
    ctx: Context,
    seq: Annotated[int, typer.Argument(help="Its sequence in the stream.")],
    stream: Annotated[str, typer.Option("--stream", help="EVENTS or TELEMETRY.")] = "EVENTS",
    epoch: Annotated[str, typer.Option("--epoch", help="Incarnation of the stream; default: any.")] = "",
    idx: Annotated[str, typer.Option("--idx", help="Entry of its frame; default: all.")] = "",
) -> int:
    """Show a dead letter whole: reason, subject, headers and body."""
    from coord.store import queries

    async with ctx.pool() as pool, pool.acquire() as conn:
        rows = await queries.run(conn, "dead_letter", stream=stream.upper(), seq=seq, epoch=epoch, idx=idx)
    if not rows:
        return missing(ctx, f"There is no dead letter {stream.upper()} {seq}.")
    for number, row in enumerate(rows):
        if number and ctx.out.is_table:
            ctx.out.text()
        ctx.out.record(_letter(dict(row)))
    return Exit.OK


@command(app, "redrive")
async def redrive(
    ctx: Context,
    status: Annotated[
        str, typer.Option("--status", help="failed, rejected, expired or cancelled; default: all but cancelled.")
    ] = "",
    capability: Annotated[str, typer.Option("--capability", help="Only of this capability.")] = "",
    error: Annotated[str, typer.Option("--error", help="Only those with this kind of error.")] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many, newest first.")
    ] = 100,
    tenant: Annotated[str, typer.Option("--tenant", help="Of this fleet; default: identity.tenant.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Who submits them; default: identity.agent.")] = "",
    workflow_tasks: Annotated[
        bool, typer.Option("--workflow-tasks", help="Also those of workflows, each alone; default: they are left.")
    ] = False,
    older_than: bulk.OlderThan = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be submitted again.")] = False,
) -> int:
    """Submit dead tasks again: those that ended without success, as the database has them.

    As fast as their capabilities take them.

    Tasks of workflows are left alone: a workflow has gone on without them, or undone what they build on.
    """
    from coord.client import redriving
    from coord.store import queries

    fleet = ctx.fleet(tenant)
    async with ctx.pool() as pool, pool.acquire() as conn:
        which = {"tenant": fleet, "status": status, "capability": capability, "error": error}
        which |= bulk.until(older_than)
        of = "" if workflow_tasks else "none"
        found = await queries.run(conn, "tasks_dead", **which, of=of, limit=limit)
        left = [] if workflow_tasks else await queries.run(conn, "tasks_dead", **which, of="workflows", limit=10_000)
    rows: list[dict[str, Any]] = [
        {"id": r["id"], "key": r["key"], "status": r["status"], "error": r["error"], "seq": None, "refused": None}
        for r in found
    ]
    if not dry_run and rows:

        async def again(me: Coord, row: bulk.Row) -> str:
            row["seq"] = await redriving.redrive(me, row["id"], row["key"], workflow_tasks=workflow_tasks, paced=True)
            return ""

        async with ctx.speaking(tenant=fleet, agent=agent) as me:
            await bulk.to_all(me, rows, again)
        for row in rows:
            row["refused"] = row.pop("result") or None
    ctx.out.rows(rows, ["id", "key", "status", "error", "seq", "refused"], empty="There are no dead tasks.")
    if rows and ctx.out.is_table and not dry_run:
        refused = sum(row["refused"] is not None for row in rows)
        more = f" There may be more than {limit}: say it again." if len(rows) == limit else ""
        ctx.out.say(f"{len(rows) - refused} submitted, {refused} refused.{more}")
    if left:
        ctx.out.say(_left([row["key"] for row in left]))
    return Exit.ERROR if any(row["refused"] for row in rows) else Exit.OK


def _left(workflows: list[str]) -> str:
    """`workflows`: whose each task that was left is."""
    names = sorted(set(workflows))
    whose = ", ".join(names[:_NAMED_MAX]) + (f" and {len(names) - _NAMED_MAX} others" if names[_NAMED_MAX:] else "")
    return (
        f"Left alone: {len(workflows)} tasks of workflows ({whose}). Run those again: coord workflow rerun; "
        "--workflow-tasks submits their tasks all the same, each alone."
    )


def _letter(row: dict[str, Any]) -> dict[str, Any]:
    """The record for showing: the body as text where it is text, otherwise escaped."""
    body: bytes = row.pop("body")
    escaped: str = row.pop("text")
    try:
        row["body"] = body.decode()
    except UnicodeDecodeError:
        row["body"] = escaped
    if len(body) < row["body_bytes"]:
        row["body_cut"] = True
    return row
