"""``coord handoff``: work that agents hand over, and who has it."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from typing import Annotated

import typer

from coord.ops.cli import past, stored
from coord.ops.cli.base import Context, Exit, command, fact_row, group
from coord.ops.cli.choices import HandoffStatus

app = group("handoff", "Handoffs: who offered what to whom, who has it, who declined.")

_COLUMNS = [
    "id", "status", "offerer", "addressee", "capability", "asked", "escalations", "offered_at", "seconds", "reason",
]  # fmt: skip


@command(app, "ls")
async def ls(
    ctx: Context,
    status: Annotated[HandoffStatus | None, typer.Option("--status", help="Only those; default: all.")] = None,
    capability: Annotated[str, typer.Option("--capability", help="Only offered to this capability.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Only offered by it, asked of it or accepted by it.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only of this fleet.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List handoffs, newest first, as the database has them."""
    await stored.ls(
        ctx, "handoffs", _COLUMNS, "There are no such handoffs.",
        tenant=tenant, status=status or "", capability=capability, agent=agent, limit=limit,
    )  # fmt: skip


@command(app, "get")
async def get(
    ctx: Context,
    id: Annotated[str, typer.Argument(help="The handoff.")],
    key: Annotated[str, typer.Option("--key", help="Its key; default: its id.")] = "",
    at: past.At = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Of this fleet; default: identity.tenant.")] = "",
) -> int:
    """Show a handoff whole, with everything that was said about it: from the log, to the moment."""
    from coord.client import entities
    from coord.core.handoff import Handoff, fold
    from coord.ops.fields import fields_of

    if at:
        return await past.get(ctx, "handoff", tenant, key or id, id, at)
    fleet = ctx.fleet(tenant)
    async with ctx.bus() as conn:
        facts = await entities.facts(conn, fleet, key=key or id, kind="handoff", id=id)
    handoff = Handoff(tenant=fleet, key=key or id, id=id)
    history = []
    for fact in facts:
        refusal = handoff.apply(fact)
        history.append({**fact_row(fact), "refused": None if refusal is None else refusal.code})
    found = fold(facts)
    if found is None:
        return await stored.show(ctx, "handoff", fleet, key or id, id)
    record = fields_of(found)
    ctx.out.entity(record, history, ["stored_at", "seq", "event", "agent", "refused"])
    return Exit.OK
