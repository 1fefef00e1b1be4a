"""The short way into the tables: few facts, of tasks, workflows or what has no table, in one statement.

::

    facts ─▶ folded on: what is kept ─┐
                        nothing, where a beginning comes first ─┼─▶ one statement, if every row and checkpoint
                        what the table has: asked for ───────────┘   is still that ─▶ written, what is open kept
                                                                      └─ or nothing is: the long way says why

Folds are kept between transactions, as bytes of the row.  They may be wrong at any time (another replica wrote, the
tables were made anew, rows removed) without harm: nothing is written on what is not in the table byte for byte, and
nothing is refused here.  Whatever is not plain (a fact that its fold refuses or leaves without a row, dead letters,
agents, anchors) goes the long way, which reads in its own transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.projector import entities
from coord.projector.rows import Batch
from coord.projector.tables import ALONE, TABLES, Table
from coord.store import at_once
from coord.store.at_once import Written
from coord.store.checkpoints import Move
from coord.store.entities import Ident, Position, load
from coord.store.pool import Connection, Pool
from coord.telemetry import logs

_log = logs.get("projector")

_ENDED_AT: Final = {"task": 12, "workflow": 9}
"""Where a row of each kind says it; the tables are called as the kinds."""
_OVERHEAD_BYTES: Final = 500
"""Of one that is kept, beside its fold."""

assert _ENDED_AT.keys() == at_once.TABLES.keys()


class Kept:
    """Open tasks and workflows as this process wrote them last, bounded in bytes: the oldest goes first."""

    def __init__(self, bytes_max: int = limits.PROJECT_KEPT_BYTES) -> None:
        self._bytes_max = bytes_max
        self._folds: dict[tuple[str, Ident], tuple[Position, bytes, Any]] = {}
        """Place and fold, and when the fact at that place was stored."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._folds)

    def get(self, kind: str, ident: Ident) -> tuple[Position, bytes] | None:
        """Place and fold of an entity; None: nothing is kept of it."""
        found = self._folds.get((kind, ident))
        return None if found is None else found[:2]

    def row(self, table: Table, ident: Ident) -> tuple[Any, ...] | None:
        """The row of an entity as it is, to be written again; None: nothing is kept of it."""
        found = self._folds.get((table.name, ident))
        if found is None:
            return None
        place, fold, stored_at = found
        return (*ident, stored_at, *place, fold, *table.columns(msgspec.msgpack.decode(fold, type=table.fold)))

    def written(self, kind: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Keep those of these rows that are open."""
        folds, ended_at = self._folds, _ENDED_AT[kind]
        for row in rows:
            entity = kind, row[:3]
            old = folds.pop(entity, None)
            if old is not None:
                self._bytes -= len(old[1]) + _OVERHEAD_BYTES
            if row[ended_at] is None:
                folds[entity] = row[4:7], row[7], row[3]
                self._bytes += len(row[7]) + _OVERHEAD_BYTES
        while self._bytes > self._bytes_max:
            old = folds.pop(next(iter(folds)))
            self._bytes -= len(old[1]) + _OVERHEAD_BYTES

    def forget(self, batches: Iterable[Batch]) -> None:
        """These go the long way: what is kept of their entities is not what the tables will have."""
        for batch in batches:
            if not self._folds:
                return
            for row in batch.events:
                old = self._folds.pop((row[8], (row[5], row[7], row[9])), None)
                if old is not None:
                    self._bytes -= len(old[1]) + _OVERHEAD_BYTES


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

    Raises `StoreError`, as `at_once.write` does.
    """
    about = entities.gathered([batch.events for batch in batches])
    if about.keys() & ALONE.keys():
        refused: list[dict[entities.Place, errors.CoordError]] = [{} for _ in batches]
        entities.judge_alone(about, refused)
        if any(refused):
            return False
        about = {kind: facts for kind, facts in about.items() if kind not in ALONE}
    if about.keys() - _ENDED_AT.keys():
        return False
    async with pool.bounded() as conn:
        written: dict[str, Written] = {}
        for kind, facts in about.items():
            rows = await _folded(conn, kept, kind, facts, len(batches))
            if rows is None:
                return False
            written[kind] = rows
        before = (was for rows in written.values() for _, was in rows if was is not None)
        if sum(len(fold) for _, fold in before) > limits.PROJECT_AT_ONCE_BYTES:
            return False
        events = [row for batch in batches for row in batch.events]
        try:
            if not await at_once.write(conn, moves, events, written):
                return False
        except errors.DatabaseRefused as exc:
            if not at_once.is_race(exc):
                _log.warning("projector.refused_at_once", error=exc)  # rare: the long way finds and parks the culprit
            return False
    for kind, rows in written.items():
        kept.written(kind, (row for row, _ in rows))
    return True


async def _folded(conn: Connection, kept: Kept, kind: str, facts: entities.About, batches: int) -> Written | None:
    """What `facts` make of what is kept or asked for, and that; None: not all of it can be written, or looked at."""
    table = TABLES[kind]
    known: dict[Ident, tuple[Position, bytes]] = {}
    asked = set()
    for ident, mine in facts.items():
        found = kept.get(kind, ident)
        if found is not None:
            known[ident] = found
        elif mine.rows[0][10] not in table.begins:
            asked.add(ident)
    if asked:
        known |= await load(conn, table.name, sorted(asked))
    refused: list[dict[entities.Place, errors.CoordError]] = [{} for _ in range(batches)]
    rows = entities.fold(table, facts, known, refused)
    # The statement looks at the rows that it writes, and what was asked for may not be so any more by then (a rebuild
    # may have put another table there): a fact of which no row would come needs a transaction to be looked at in.
    if any(refused):
        return None
    for ident in facts.keys() - {row[:3] for row in rows}:
        # What is recorded of a step changes nothing: its row is written as it was, to be looked at.
        row = kept.row(table, ident) if all(one[10] in table.judged_only for one in facts[ident].rows) else None
        if row is None:
            return None
        rows.append(row)
    return [(row, known.get(row[:3])) for row in rows]
