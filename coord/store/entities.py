"""Entities' tables: what they have of some entities, and what a batch makes of them.

Works inside the caller's transaction.  What is read here cannot have become wrong when that
commits: only the owner of a key's partition writes its rows, in the transaction that moves the
partition's checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from coord import limits
from coord.store.columns import Column
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.sqlstate import translated

Ident: TypeAlias = tuple[str, str, str]
"""(tenant, key, id)."""

Position: TypeAlias = tuple[int, int, int]
"""(epoch, seq, idx) of a fact.  A negative idx says something of the row: ``-1 - idx`` that it lags (see the
projector), `LOST` that the log that held it is gone."""

LOST: Final = -(2**31)
"""In place of idx.  `lose` writes it."""

COMMON: Final = ("tenant", "key", "id", "changed_at", "epoch", "seq", "idx", "fold")
"""The first columns of every table, and of the rows that `save` takes; the table's own follow."""


async def load(
    conn: Connection, table: str, idents: Sequence[Ident], schema: str = "coord"
) -> dict[Ident, tuple[Position, bytes]]:
    """The newest fact and the saved fold of those that the table has."""
    with translated(f"read {table}"):
        found = await conn.fetch(
            statement(f"read_{table}", schema), *(Column(i[at] for i in idents) for at in range(3))
        )
    return {(r[0], r[1], r[2]): ((r[3], r[4], r[5]), r[6]) for r in found}


async def save(conn: Connection, table: str, rows: Sequence[tuple[Any, ...]], schema: str = "coord") -> None:
    """Insert or replace `rows`, at most one an entity; locked in the order of the primary key."""
    if rows:
        with translated(f"upsert {table}"):
            await conn.execute(statement(f"upsert_{table}", schema), *map(Column, zip(*rows, strict=True)))


async def lose(
    conn: Connection, is_lost: Callable[[str], bool], *, at: datetime | None = None, schema: str = "coord"
) -> dict[str, int]:
    """The log that held the entities whose key `is_lost` is gone; how many rows of each table that changed.

    `at`: when that was known; default: now.

    Open tasks, workflows and handoffs end as `lost`.  Signals, locks, flags and registrations are nothing
    but what the log says, and go.
    """
    total: dict[str, int] = {}
    with translated("lose entities"):
        keys = [row[0] for row in await conn.fetch(statement("lost_keys", schema)) if is_lost(row[0])]
        for start in range(0, len(keys), limits.MAINTAIN_BATCH_ROWS):
            some = keys[start : start + limits.MAINTAIN_BATCH_ROWS]
            rows = await conn.fetch(statement("lose_entities", schema), some, at)
            for relation, lost in rows:
                total[relation] = total.get(relation, 0) + lost
    return total
