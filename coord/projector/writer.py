"""One transaction: rows, entities, dead letters and the checkpoint, or nothing.

The order inside matters and stands in `_write`: rows first, the guarded checkpoint last.
When the guard matches no row, somebody else committed this partition: everything rolls back.

A row that the database refuses because of its content must not stop its partition.  The
batch is then written again with savepoints, halving what was refused until single rows
remain; those become dead letters.  The common case pays nothing for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from coord import errors
from coord.core.checkpoint import Checkpoint
from coord.projector.dead_letters import DeadLetterQueue
from coord.projector.rows import Batch, stored_time
from coord.store import checkpoints, copy
from coord.store.pool import Connection, Pool
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS

Row = TypeVar("Row")
Copy = Callable[[Connection, Sequence[Row]], Awaitable[Any]]

_EVENT_SEQ, _EVENT_IDX = EVENT_COLUMNS.index("seq"), EVENT_COLUMNS.index("idx")
_SAMPLE_SEQ, _SAMPLE_IDX = SAMPLE_COLUMNS.index("seq"), SAMPLE_COLUMNS.index("idx")


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
                return await self._transaction(batch, checkpoint, isolate=False)
            except errors.DatabaseRefused:
                return await self._transaction(batch, checkpoint, isolate=True)

    async def advance(self, checkpoint: Checkpoint, moved: Checkpoint) -> None:
        """Move an idle partition's checkpoint without rows."""
        async with self._turn, self._pool.acquire() as conn:
            await checkpoints.advance(conn, checkpoint, moved, pending=0)

    async def _transaction(self, batch: Batch, checkpoint: Checkpoint, *, isolate: bool) -> Checkpoint:
        last = batch.last
        assert last is not None, "an empty batch is never committed"
        moved = checkpoints.moved(checkpoint, seq=last.seq, stored_at=stored_time(last.stored_ns))
        async with self._pool.transaction() as conn:
            if isolate:
                await self._isolate(conn, batch)
            await self._write(conn, batch)
            await checkpoints.advance(conn, checkpoint, moved, pending=last.pending)
        return moved

    async def _write(self, conn: Connection, batch: Batch) -> None:
        if batch.events:
            await copy.events(conn, batch.events)
        if batch.samples:
            await copy.samples(conn, batch.samples)
        await copy.upsert_agents(conn, batch.agents())
        if batch.letters:
            await self._dlq.publish(batch.letters)
            await copy.dead_letters(conn, [letter.row for letter in batch.letters])

    async def _isolate(self, conn: Connection, batch: Batch) -> None:
        """Find the refused rows and turn them into dead letters; the tables are left as they were."""
        refused: dict[tuple[int, int], errors.DatabaseRefused] = {}
        await _find_refused(conn, batch.events, copy.events, refused, _EVENT_SEQ, _EVENT_IDX)
        await _find_refused(conn, batch.samples, copy.samples, refused, _SAMPLE_SEQ, _SAMPLE_IDX)
        batch.park(refused)


async def _find_refused(
    conn: Connection,
    rows: Sequence[Any],
    write: Copy[Any],
    refused: dict[tuple[int, int], errors.DatabaseRefused],
    seq_at: int,
    idx_at: int,
) -> None:
    if not rows:
        return
    try:
        async with conn.transaction():  # a savepoint
            await write(conn, rows)
            raise _Undo  # found good: the real write comes later, as a whole
    except _Undo:
        return
    except errors.DatabaseRefused as exc:
        if len(rows) == 1:
            refused[rows[0][seq_at], rows[0][idx_at]] = exc
            return
    middle = len(rows) // 2
    await _find_refused(conn, rows[:middle], write, refused, seq_at, idx_at)
    await _find_refused(conn, rows[middle:], write, refused, seq_at, idx_at)


class _Undo(Exception):
    pass
