"""Reading several tables, and up to where they go, at one moment.

::

    async with reading(pool) as seen:
        rows = await seen.conn.fetch("SELECT …")
    return Loaded(rows, seen.marks)

The first statement of the transaction reads the checkpoints; REPEATABLE READ gives the others the same snapshot.  So
`marks` is exact, on a primary and on a replica that lags: a cache that knows of a later commit reads again
(`coord.core.eviction`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import msgspec

from coord.core.eviction import Marks
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.sqlstate import translated


class Reading(msgspec.Struct, frozen=True, eq=False):
    """A transaction that only reads."""

    conn: Connection
    marks: Marks
    """(stream, partition) → (epoch, sequence) up to which its snapshot has everything."""


class Lender(Protocol):
    """A pool: coord's own, or asyncpg's."""

    def acquire(self) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection for the length of a block."""


async def one_moment(conn: Connection, *, writes: bool = False) -> None:
    """Have the transaction that has just begun see one moment, whatever others commit meanwhile."""
    with translated("snapshot"):
        await conn.execute(f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ {'WRITE' if writes else 'ONLY'}")


@asynccontextmanager
async def reading(pool: Lender) -> AsyncIterator[Reading]:
    """A snapshot of the tables, for the length of a block.

    Raises what acquiring a connection raises, and the database's errors as coord's.
    """
    async with pool.acquire() as conn:
        with translated("snapshot"):
            async with conn.transaction(isolation="repeatable_read", readonly=True):
                rows = await conn.fetch(statement("checkpoint_marks"))
                marks = {(row["stream"], row["partition"]): (row["epoch"], row["seq"]) for row in rows}
                yield Reading(conn, marks)
