"""One transaction: rows, entities, dead letters and the checkpoint, or nothing.

The order inside matters and stands in `_transaction`: rows first, the guarded checkpoint last.
When the guard matches no row, somebody else committed this partition: everything rolls back.

A row that the database refuses because of its content must not stop its partition.  The
batch is then written again with savepoints, halving what was refused until single rows
remain; those become dead letters.  The common case pays nothing for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from coord import errors
from coord.core.checkpoint import Checkpoint
from coord.projector.dead_letters import DeadLetterQueue
from coord.projector.rows import Batch, stored_time
from coord.store import checkpoints, copy
from coord.store.pool import Connection, Pool
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS, AgentRow, EventRow, SampleRow

Place = tuple[int, int]
"""(stream sequence, index in frame)."""

_SEARCH_ROWS = 500
"""Rows searched in one transaction: were all refused, 10,000 would take longer than one may."""

Write = Callable[[Connection, Sequence[Any]], Awaitable[None]]

assert EVENT_COLUMNS[2:4] == SAMPLE_COLUMNS[2:4] == ("seq", "idx"), "see _place_of_row"


class Writer:
    """Commits batches; shared by all partitions of a process.

    At most `writers` transactions at a time: whoever waits meanwhile grows its batch.
    """

    def __init__(self, pool: Pool, dlq: DeadLetterQueue, writers: int) -> None:
        self._pool = pool
        self._dlq = dlq
        self._turn = asyncio.Semaphore(writers)

    async def commit(self, batch: Batch, checkpoint: Checkpoint) -> Checkpoint:
        """Commit `batch` on top of `checkpoint`; returns the new checkpoint.

        Raises `CheckpointMoved`, `DatabaseUnavailable`, `NotConnected` (the DLQ could not be
        reached) or another `StoreError`: nothing of the batch is in the tables then, except
        when the connection broke during COMMIT, which the checkpoint tells.
        """
        async with self._turn:
            try:
                return await self._transaction(batch, checkpoint)
            except errors.DatabaseRefused:
                await self._park_refused(batch)
                return await self._transaction(batch, checkpoint)

    async def advance(self, checkpoint: Checkpoint, moved: Checkpoint) -> None:
        """Move an idle partition's checkpoint without rows."""
        async with self._turn, self._pool.acquire() as conn:
            await checkpoints.advance(conn, checkpoint, moved, pending=0)

    async def _transaction(self, batch: Batch, checkpoint: Checkpoint) -> Checkpoint:
        last = batch.last
        assert last is not None, "an empty batch is never committed"
        moved = checkpoints.moved(checkpoint, seq=last.seq, stored_at=stored_time(last.stored_ns))
        # Before the transaction: a silent broker must not keep one open.
        await self._dlq.publish(batch.letters)
        async with self._pool.transaction() as conn:
            await copy.events(conn, batch.events)
            await copy.samples(conn, batch.samples)
            await copy.upsert_agents(conn, batch.agents())
            await copy.dead_letters(conn, [letter.row for letter in batch.letters])
            await checkpoints.advance(conn, checkpoint, moved, pending=last.pending)
        return moved

    async def _park_refused(self, batch: Batch) -> None:
        """Find the rows whose content the database refuses and turn them into dead letters."""
        refused: dict[Place, errors.CoordError] = {}
        for rows, write, place in (
            (batch.events, copy.events, _place_of_row),
            (batch.samples, copy.samples, _place_of_row),
            (batch.agents(), copy.upsert_agents, _place_of_agent),
        ):
            for start in range(0, len(rows), _SEARCH_ROWS):
                async with self._pool.transaction() as conn:
                    refused |= await _refused(conn, rows[start : start + _SEARCH_ROWS], write, place)
        batch.park(refused)


async def _refused(
    conn: Connection, rows: Sequence[Any], write: Write, place: Callable[[Any], Place]
) -> dict[Place, errors.CoordError]:
    """Which of `rows` are refused, by halving; nothing is written."""
    if not rows:
        return {}
    try:
        async with conn.transaction():  # a savepoint
            await write(conn, rows)
            raise _Undo
    except _Undo:
        return {}
    except errors.DatabaseRefused as exc:
        if len(rows) == 1:
            return {place(rows[0]): exc}
    middle = len(rows) // 2
    return await _refused(conn, rows[:middle], write, place) | await _refused(conn, rows[middle:], write, place)


def _place_of_row(row: EventRow | SampleRow) -> Place:
    return row[2], row[3]


def _place_of_agent(row: AgentRow) -> Place:
    return row.seq, row.idx


class _Undo(Exception):
    pass
