"""Statuses that are said by changes, put together inside the transaction that stores them.

`coord.core.status.StatusFold` decides; this reads what the table has, hands the batch's
statements to it in the order of the log, and gives rows back that say whole statuses.  One
question a batch, and none where nobody says changes.

What a transaction read here cannot have become wrong when it commits: only the owner of the
agent's partition writes the row, in the transaction that moves the partition's checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import msgspec

from coord import errors
from coord.core.status import StatusFold
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.rows import AgentRow
from coord.store.sqlstate import translated
from coord.wire import status

Name = tuple[str, str]
"""(tenant, agent)."""


async def folded(
    conn: Connection, rows: Sequence[AgentRow], schema: str = "coord"
) -> tuple[list[AgentRow], list[Name]]:
    """`rows` with whole statuses in place of changes, and the agents whose status is stale now."""
    about: dict[Name, list[AgentRow]] = {(row.tenant, row.agent): [] for row in rows if _is_numbered(row)}
    if not about:
        return list(rows), []
    others: list[AgentRow] = []
    for row in sorted(rows, key=attrgetter("position")):
        about.get((row.tenant, row.agent), others).append(row)
    known = await _read(conn, sorted(about), schema)
    stale: list[Name] = []
    for name, mine in about.items():
        place, fold = known.get(name, (None, StatusFold()))
        others += _fold(fold, [row for row in mine if place is None or row.position > place])
        if fold.stale:
            stale.append(name)
    return others, stale


def _is_numbered(row: AgentRow) -> bool:
    return row.change is not None or (row.status is not None and status.has_revision(row.status))


def _fold(fold: StatusFold, rows: list[AgentRow]) -> list[AgentRow]:
    """The rows of one agent; the last of them says what they all leave."""
    said = False
    for row in rows:
        if row.status is not None:
            fold.take(status.read_whole(row.status))
        elif row.change is not None:
            fold.take(_change(row.change))
        else:
            continue
        said = True
    plain = [msgspec.structs.replace(row, status=None, change=None) for row in rows]
    if said:
        text, rev = fold.text, fold.dump()
        plain[-1] = msgspec.structs.replace(
            plain[-1],
            status=None if text is None else text.decode(),
            status_rev=None if rev is None else msgspec.json.encode(rev).decode(),
        )
    return plain


def _change(text: str) -> status.Change | None:
    try:
        return status.read_change(text)
    except errors.InvalidPayload:
        return None


async def _read(
    conn: Connection, names: list[Name], schema: str
) -> dict[Name, tuple[tuple[int, int, int], StatusFold]]:
    with translated("read status"):
        found = await conn.fetch(
            statement("read_statuses", schema), [tenant for tenant, _ in names], [agent for _, agent in names]
        )
    return {
        (r["tenant"], r["agent"]): ((r["epoch"], r["seq"], r["idx"]), StatusFold.load(r["status"], r["status_rev"]))
        for r in found
    }
