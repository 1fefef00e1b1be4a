"""Checkpoints: up to where a partition is in the tables.

Truth about who projects a partition is one conditional UPDATE, in the transaction of the
rows: it moves the checkpoint from exactly where the writer believes it to be, or matches no
row.  Of two projectors on one partition one commits, the other gets `CheckpointMoved` and
rolls everything back.

`advance` belongs last in its transaction: its row lock is then held only until COMMIT.  A
COPY that waits for a stalled client cannot be cancelled by the server, not even by its
statement timeout, and must hold no lock that a successor needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg
import msgspec

from coord import errors
from coord.core.checkpoint import Checkpoint
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.sqlstate import translated


def moved(checkpoint: Checkpoint, *, seq: int, stored_at: datetime | None) -> Checkpoint:
    """The checkpoint after everything up to `seq` is committed; `stored_at` is that message's time."""
    assert seq >= checkpoint.seq, "a checkpoint never moves back"
    return msgspec.structs.replace(checkpoint, seq=seq, stored_at=stored_at)


async def read(conn: Connection, stream: str, partition: int) -> Checkpoint | None:
    """The checkpoint of one partition, or None when it has none yet."""
    with translated("checkpoint read"):
        rows = await conn.fetch(statement("checkpoint_read"), stream, partition)
    return _checkpoint(rows[0]) if rows else None


async def read_all(conn: Connection, stream: str) -> list[Checkpoint]:
    """The checkpoints of a stream by partition; those that have none are absent."""
    with translated("checkpoint read"):
        rows = await conn.fetch(statement("checkpoint_read"), stream, None)
    return [_checkpoint(row) for row in rows]


async def create(conn: Connection, *, stream: str, partition: int, stream_created: datetime, seq: int) -> Checkpoint:
    """The first checkpoint of a partition, at `seq`; the existing one when another was faster."""
    with translated("checkpoint create"):
        await conn.execute(statement("checkpoint_create"), stream, partition, stream_created, seq)
    checkpoint = await read(conn, stream, partition)
    assert checkpoint is not None, "created or found"
    return checkpoint


async def advance(conn: Connection, checkpoint: Checkpoint, moved: Checkpoint, *, pending: int) -> None:
    """Move the checkpoint from exactly `checkpoint` to `moved`.

    `pending`: messages of the partition still waiting in the stream.  Raises `CheckpointMoved`
    when it is not where the caller believes: roll back, read it again.  An idle partition may
    move without rows, or confirm its place (`moved` = `checkpoint`).
    """
    with translated("checkpoint advance"):
        found = await conn.fetchval(
            statement("checkpoint_advance"),
            checkpoint.stream,
            checkpoint.partition,
            checkpoint.epoch,
            checkpoint.seq,
            moved.seq,
            moved.stored_at,
            pending,
        )
    if found is None:
        raise errors.CheckpointMoved(
            stream=checkpoint.stream, partition=checkpoint.partition, epoch=checkpoint.epoch, seq=checkpoint.seq
        )


async def new_epoch(
    conn: Connection,
    stream: str,
    *,
    stream_created: datetime,
    seq: int,
    partitions: Sequence[int] | None = None,
) -> list[Checkpoint]:
    """An operator's decision: go on from `seq` of the stream as it is now.

    Partitions (all, by default) get one new epoch, higher than any this stream had, so that
    rows of the old incarnation and of the new one never share an identity.  A projector that
    is still at work on the old epoch gets `CheckpointMoved`.  Returns the new checkpoints.
    """
    with translated("checkpoint new epoch"):
        rows = await conn.fetch(
            statement("checkpoint_new_epoch"),
            stream,
            stream_created,
            seq,
            None if partitions is None else list(partitions),
        )
    return [_checkpoint(row) for row in rows]


def _checkpoint(row: asyncpg.Record) -> Checkpoint:
    return Checkpoint(
        stream=row["stream"],
        partition=row["partition"],
        stream_created=row["stream_created"],
        epoch=row["epoch"],
        seq=row["seq"],
        stored_at=row["stored_at"],
    )
