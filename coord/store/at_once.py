"""A small transaction of the projector as one statement, which is a transaction by itself.

Six round trips (BEGIN, COPY, what the table has, upsert, checkpoints, COMMIT) wake up three processes each time; for
a dozen rows that costs more than the rows.  The statement checks what the long way checks, and what its writer
believed of the tasks besides: each row has to be what was folded on, byte for byte, or not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from coord.store import checkpoints
from coord.store.checkpoints import Move
from coord.store.columns import Column
from coord.store.entities import Position
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.rows import EVENT_COLUMNS, EventRow
from coord.store.sqlstate import translated

_TASK_COLUMNS: Final = 30
_NOTHING: Final = (None, None, None, None)


async def write(
    conn: Connection,
    moves: Sequence[Move],
    events: Sequence[EventRow],
    tasks: Sequence[tuple[Any, ...]],
    before: Sequence[tuple[Position, bytes] | None],
) -> bool:
    """Outside a transaction: commit facts, rows of tasks and checkpoints.  False: nothing was, not all is as believed.

    `before`: the place and the fold of the row that each of `tasks` was folded on; None: there was none.  Anchors are
    not written.  Raises `StoreError`; nothing is written then, except when the connection broke: that leaves it open.
    `DatabaseRefused` also means that another writer moved a checkpoint in the same moment.
    """
    believed = [_NOTHING if b is None else (*b[0], b[1]) for b in before]
    rows = [(*task, *was) for task, was in zip(tasks, believed, strict=True)]
    with translated("write at once"):
        found = await conn.fetch(
            statement("write_at_once"),
            *map(Column, checkpoints.columns(moves)),
            *_columns(events, len(EVENT_COLUMNS)),
            *_columns(rows, _TASK_COLUMNS + len(_NOTHING)),
        )
    return bool(found[0]["written"])


async def prepare(conn: Connection) -> None:
    """Have `conn` plan it, for which its first use would wait; writes nothing."""
    with translated("write at once"):
        await conn.fetch(statement("write_at_once"), *([] for _ in range(9 + len(EVENT_COLUMNS) + _TASK_COLUMNS + 4)))


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[Column]:
    return list(map(Column, zip(*rows, strict=True))) if rows else [Column(()) for _ in range(count)]
