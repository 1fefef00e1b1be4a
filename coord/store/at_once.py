"""A small transaction of the projector as one statement, which is a transaction by itself.

Six round trips (BEGIN, COPY, what the table has, upsert, checkpoints, COMMIT) wake up three processes each time; for
a dozen rows that costs more than the rows.  The statement checks what the long way checks, and what its writer
believed of tasks and workflows besides: each row has to be what was folded on, byte for byte, or not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from coord import errors
from coord.store import checkpoints
from coord.store.checkpoints import Move
from coord.store.columns import Column
from coord.store.entities import Position
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.rows import EVENT_COLUMNS, EventRow
from coord.store.sqlstate import translated

Row: TypeAlias = tuple[Any, ...]
"""Of an entity, as `coord.store.entities.save` takes it."""

Written: TypeAlias = Sequence[tuple[Row, tuple[Position, bytes] | None]]
"""Rows of one table, and the place and the fold of what each was folded on; None: it was not there."""

TABLES: Final = {"task": 32, "workflow": 20}
"""Those it writes, in the order in which they are locked, and the columns of a row."""

_NOTHING: Final = (None, None, None, None)

_RACE: Final = "a checkpoint moved meanwhile"
"""What the statement says."""

_IMPATIENT: Final = "SET lock_timeout = '200ms'"


async def write(
    conn: Connection, moves: Sequence[Move], events: Sequence[EventRow], written: Mapping[str, Written]
) -> bool:
    """Outside a transaction: commit facts, rows of entities, checkpoints.  False: nothing was, not all is as believed.

    `written`: by table of `TABLES`; what is not there has no rows.  Anchors are not written.  Raises `StoreError`;
    nothing is written then, except when the connection broke: that leaves it open, as a caller that is cancelled or
    runs out of time does.  `DatabaseRefused`: of a value, or (`is_race`) another writer moved a checkpoint meanwhile.
    """
    arrays = [Column(values) for values in checkpoints.columns(moves)]
    arrays += _columns(events, len(EVENT_COLUMNS))
    for table, count in TABLES.items():
        rows = [(*row, *(_NOTHING if was is None else (*was[0], was[1]))) for row, was in written.get(table, ())]
        arrays += _columns(rows, count + len(_NOTHING))
    with translated("write at once"):
        found = await conn.fetch(statement("write_at_once"), *arrays)
    return bool(found[0]["written"])


def is_race(refused: errors.DatabaseRefused) -> bool:
    """Whether it only says that another writer moved a checkpoint in the same moment."""
    return _RACE in refused.message


async def prepare(conn: Connection) -> None:
    """Have `conn` plan it, for which its first use would wait; writes nothing.

    Raises `StoreError` where somebody holds one of the tables for long, as who changes them does: whoever connects
    need not wait for that.
    """
    with translated("write at once"):
        count = 9 + len(EVENT_COLUMNS) + sum(columns + len(_NOTHING) for columns in TABLES.values())
        await conn.execute(_IMPATIENT)
        try:
            await conn.fetch(statement("write_at_once"), *([] for _ in range(count)))
        finally:
            if not conn.is_closed():
                await conn.execute("RESET lock_timeout")


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[Column]:
    return list(map(Column, zip(*rows, strict=True))) if rows else [Column(()) for _ in range(count)]
