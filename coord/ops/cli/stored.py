"""What the tables have: lists of entities, and one that the log holds no more."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from coord.ops.cli.base import Context, Exit, missing


async def ls(ctx: Context, query: str, columns: Sequence[str], empty: str, **parameters: Any) -> None:
    """Show the rows of a named query; `empty` is said where there are none."""
    ctx.out.rows(await listed(ctx, query, **parameters), columns, empty=empty)


async def listed(ctx: Context, query: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of a named query."""
    from coord.store import queries

    async with ctx.reading() as reads, reads.acquire() as conn:
        return [dict(row) for row in await queries.run(conn, query, **parameters)]


async def show(ctx: Context, kind: str, tenant: str, key: str, id: str) -> int:
    """Show a task, workflow or handoff from the database, with the facts about it; the exit code."""
    from coord.errors import StoreError
    from coord.store import queries

    try:
        async with ctx.reading() as reads, reads.acquire() as conn:
            found = await queries.run(conn, kind, tenant=tenant, key=key, id=id)
            facts = await queries.run(conn, "history", tenant=tenant, key=key) if found else []
    except StoreError as exc:
        said = f"the log holds no {kind} {id}, and the database cannot be asked: {exc.message}"
        raise type(exc)(said, **exc.details) from exc  # whether there is one is not known; what to do is
    if not found:
        return missing(ctx, f"There is no {kind} {id}.")
    history = [
        {
            "stored_at": fact["stored_at"],
            "seq": fact["seq"],
            "event": ".".join(filter(None, (fact["event"], fact["detail"]))),
            "agent": fact["agent"],
            "data": None if fact["data"] is None else json.loads(fact["data"]),
        }
        for fact in facts
        if (fact["kind"], fact["id"]) == (kind, id)
    ]
    ctx.out.say(f"{id} has left the log: this is what the database has.")
    record = dict(found[0])
    ctx.out.entity(record, history)
    return Exit.OK
