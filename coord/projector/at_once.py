"""The short way into the tables: few facts, of tasks or of what has no table, in one statement.

::

    facts ─▶ folded on: what is kept ─┐
                        nothing, where a submission comes first ─┼─▶ one statement, if every row and checkpoint
                        what the table has: asked for ───────────┘   is still that ─▶ written, open tasks kept
                                                                      └─ or nothing is: the long way says why

Folds are kept between transactions, as bytes of the row.  They may be wrong at any time (another replica wrote, the
tables were made anew, rows removed) without harm: nothing is written on what is not in the table byte for byte, and
nothing is refused here.  Whatever is not plain (a fact that its fold refuses, dead letters, agents, anchors) goes the
long way, which reads in its own transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from coord import errors, limits
from coord.projector import entities
from coord.projector.rows import Batch
from coord.projector.tables import TABLES
from coord.store import at_once
from coord.store.checkpoints import Move
from coord.store.entities import Ident, Position
from coord.store.entities import load as load_entities
from coord.store.pool import Pool

_TASK: Final = TABLES["task"]
_ENDED_AT: Final = 12
"""Where a row of a task says it."""
_OVERHEAD_BYTES: Final = 400
"""Of one that is kept, beside its fold."""


class Kept:
    """Open tasks as this process wrote them last, bounded in bytes: the oldest goes first."""

    def __init__(self, bytes_max: int = limits.PROJECT_KEPT_BYTES) -> None:
        self._bytes_max = bytes_max
        self._tasks: dict[Ident, tuple[Position, bytes]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, ident: Ident) -> tuple[Position, bytes] | None:
        """Place and fold of a task; None: nothing is kept of it."""
        return self._tasks.get(ident)

    def written(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Keep those of these rows that are open."""
        tasks = self._tasks
        for row in rows:
            ident = row[:3]
            old = tasks.pop(ident, None)
            if old is not None:
                self._bytes -= len(old[1]) + _OVERHEAD_BYTES
            if row[_ENDED_AT] is None:
                tasks[ident] = row[4:7], row[7]
                self._bytes += len(row[7]) + _OVERHEAD_BYTES
        while self._bytes > self._bytes_max:
            old = tasks.pop(next(iter(tasks)))
            self._bytes -= len(old[1]) + _OVERHEAD_BYTES

    def clear(self) -> None:
        """Forget all of them."""
        self._tasks.clear()
        self._bytes = 0


def is_small(batches: Sequence[Batch], moves: Sequence[Move]) -> bool:
    """Whether they may go the short way."""
    return (
        sum(map(len, batches)) <= limits.PROJECT_AT_ONCE_ROWS
        and sum(batch.bytes for batch in batches) <= limits.PROJECT_AT_ONCE_BYTES
        and not any(batch.samples or batch.letters or batch.has_agents for batch in batches)
        and not any(move.anchor for move in moves)
    )


async def write(pool: Pool, kept: Kept, batches: Sequence[Batch], moves: Sequence[Move]) -> bool:
    """Commit what `is_small`; False: nothing was, and it has to go the long way.

    Raises `StoreError`, and leaves open whether it was committed when the connection broke meanwhile.
    """
    about = entities.gathered([batch.events for batch in batches])
    facts = about.pop("task", {})
    if about:
        return False
    known: dict[Ident, tuple[Position, bytes]] = {}
    asked = set()
    for ident, mine in facts.items():
        found = kept.get(ident)
        if found is not None:
            known[ident] = found
        elif mine.rows[0][10] not in _TASK.begins:
            asked.add(ident)
    async with pool.acquire() as conn:
        if asked:
            known |= await load_entities(conn, "task", sorted(asked))
        refused: list[dict[entities.Place, errors.CoordError]] = [{} for _ in batches]
        rows = entities.fold(_TASK, facts, known, refused)
        if any(refused) or not _are_all_checked(facts.keys() - asked, rows):
            return False
        before = [known.get(row[:3]) for row in rows]
        if sum(len(was[1]) for was in before if was is not None) > limits.PROJECT_AT_ONCE_BYTES:
            return False
        events = [row for batch in batches for row in batch.events]
        try:
            if not await at_once.write(conn, moves, events, rows, before):
                return False
        except errors.DatabaseRefused:
            return False
    kept.written(rows)
    return True


def _are_all_checked(supposed: set[Ident], rows: Sequence[tuple[Any, ...]]) -> bool:
    """Whether the statement looks at every row that was only supposed: it looks at those that it writes."""
    return supposed <= {row[:3] for row in rows}
