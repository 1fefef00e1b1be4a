"""Checkpoints: up to where a partition is in the tables.

Truth about who projects a partition is one conditional UPDATE, in the transaction of the
rows: it moves the checkpoint from exactly where the writer believes it to be, or matches no
row.  Of two projectors on one partition one commits, the other gets `CheckpointMoved` and
rolls everything back.  A transaction may move several partitions; the statement takes their
locks in the order of the primary key, so that two such writers never wait for each other.

`advance_all` belongs last in its transaction: its row lock is then held only until COMMIT.  A
COPY that waits for a stalled client cannot be cancelled by the server, not even by its
statement timeout, and must hold no lock that a successor needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from coord import errors
from coord.core.checkpoint import Checkpoint
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.sqlstate import translated


class Move(msgspec.Struct, frozen=True):
    """One partition's step: from exactly where its writer believes it to be, to where its rows end."""

    before: Checkpoint
    after: Checkpoint
    pending: int
    """Messages of the partition still waiting in the stream."""
    anchor: bool = False
    """Whether to write down the chain's digest there, for audits (`coord.core.chain`)."""


def moved(checkpoint: Checkpoint, *, seq: int, stored_at: datetime | None) -> Checkpoint:
    """The checkpoint after everything up to `seq` is committed; `stored_at` is that message's time.

    Its chain stays: whoever projected messages says so with `digest` and `messages`.
    """
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


async def advance_all(conn: Connection, moves: Sequence[Move]) -> list[Move]:
    """Move every checkpoint that is where its `before` says; returns the moves whose is not.

    One statement whatever their number, at most one move a partition.  A caller that gets some
    back must roll back: rows of theirs are in this transaction too.
    """
    with translated("checkpoint advance"):
        if len(moves) == 1 and not moves[0].anchor:
            found = await conn.fetch(statement("checkpoint_advance"), *_values(moves[0])[:-1])
        else:
            columns = zip(*map(_values, moves), strict=True)
            found = await conn.fetch(statement("checkpoint_advance_all"), *columns)
    if len(found) == len(moves):
        return []
    done = {(row["stream"], row["partition"]) for row in found}
    return [m for m in moves if (m.before.stream, m.before.partition) not in done]


def columns(moves: Sequence[Move]) -> list[tuple[object, ...]]:
    """One tuple a parameter of ``checkpoint_advance``, in the order of the primary key; anchors are not in it."""
    ordered = sorted(moves, key=lambda m: (m.before.stream, m.before.partition))
    return list(zip(*(_values(move)[:-1] for move in ordered), strict=True))


async def prepare(conn: Connection) -> None:
    """Have `conn` plan `advance_all`, for which its first transaction would wait; moves nothing."""
    with translated("checkpoint advance"):
        await conn.fetch(statement("checkpoint_advance_all"), *([] for _ in range(_VALUES)))


async def pass_gap(conn: Connection, checkpoint: Checkpoint, moved: Checkpoint) -> None:
    """Move over sequences that are gone for ever; anchors on both sides, nothing of the chain between.

    Inside a transaction.  Raises `CheckpointMoved`.
    """
    for move in (Move(checkpoint, checkpoint, 0, anchor=True), Move(checkpoint, moved, 0, anchor=True)):
        if await advance_all(conn, [move]):
            raise checkpoint_moved(checkpoint)


def checkpoint_moved(believed: Checkpoint) -> errors.CheckpointMoved:
    """The error of a writer that believed a partition's checkpoint to be at `believed`."""
    return errors.CheckpointMoved(
        stream=believed.stream, partition=believed.partition, epoch=believed.epoch, seq=believed.seq
    )


async def new_epoch(
    conn: Connection,
    stream: str,
    *,
    stream_created: datetime,
    seq: int,
    partitions: Sequence[int] | None = None,
    replaced: Sequence[int] = (),
) -> list[Checkpoint]:
    """An operator's decision: go on from `seq` of the stream as it is now.

    Partitions (all, by default) get one new epoch, higher than any this stream had, so that
    rows of the old incarnation and of the new one never share an identity.  A projector that
    is still at work on the old epoch gets `CheckpointMoved`.  Returns the new checkpoints.

    `replaced`: partitions of which this is another log, so that what was open in the old one is lost; it is
    written down with the epoch, for whoever makes the tables anew.
    """
    with translated("checkpoint new epoch"):
        rows = await conn.fetch(
            statement("checkpoint_new_epoch"),
            stream,
            stream_created,
            seq,
            None if partitions is None else list(partitions),
            list(replaced),
        )
    return [_checkpoint(row) for row in rows]


_VALUES: Final = 10


def _values(move: Move) -> tuple[object, ...]:
    """In the order of the statements' parameters."""
    before, after = move.before, move.after
    return (
        before.stream,
        before.partition,
        before.epoch,
        before.seq,
        after.seq,
        after.stored_at,
        move.pending,
        after.digest,
        after.messages,
        move.anchor,
    )


def _checkpoint(row: asyncpg.Record) -> Checkpoint:
    return Checkpoint(
        stream=row["stream"],
        partition=row["partition"],
        stream_created=row["stream_created"],
        epoch=row["epoch"],
        seq=row["seq"],
        stored_at=row["stored_at"],
        digest=row["digest"],
        messages=row["messages"],
    )
