"""Whether a partition may go on from its checkpoint, given what the stream is now.

Three ways in which a stream can have become another one under the checkpoint (DESIGN §6):
it was made anew, it ends below the checkpoint (its tail was lost), or another message
stands at the checkpoint's sequence (its tail was lost and overwritten).  And one in which
facts are missing: the window's first sequence passed checkpoint + 1.

Pure: the edge asks the stream and the database, this module judges.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from coord.errors import LogGap, ProjectionStopped, StreamReplaced


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where one partition is in the tables, committed together with its rows."""

    stream: str
    partition: int
    stream_created: datetime
    """The broker's creation time of the stream: its identity."""
    epoch: int
    """The number of the stream's incarnation, from 1; an operator opens the next one."""
    seq: int
    """Stream sequence up to which every fact of the partition is committed; 0 = nothing."""
    stored_at: datetime | None
    """The broker's time of the message at `seq`; None when there was none to read."""
    digest: int = 0
    """The chain of what was projected in this epoch (`coord.core.chain`),"""
    messages: int = 0
    """and how many messages have gone into it."""


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker says of the stream."""

    created: datetime
    first_seq: int
    last_seq: int
    at_checkpoint: datetime | None = None
    """The broker's time of the message at the checkpoint's sequence; None when it aged out."""


def witness(checkpoint: Checkpoint, known: Iterable[Checkpoint]) -> Checkpoint:
    """The furthest checkpoint of the same stream and epoch: the first to show that the stream lost its tail.

    A partition that was behind the loss sees nothing wrong at its own checkpoint.  Going on, it
    would give sequences of lost messages to new ones, and an identity (epoch, seq, index) would
    stand for two facts.  So a stream that is replaced for one partition is for all of its epoch.
    """
    return max((c for c in known if c.epoch == checkpoint.epoch), key=lambda c: c.seq, default=checkpoint)


def judge(checkpoint: Checkpoint, stream: StreamState) -> ProjectionStopped | None:
    """The reason why this partition must not go on, or None.

    A `LogGap` tells how many sequence numbers passed by: an upper bound of the facts lost,
    since other partitions had numbers among them.
    """
    where = {"stream": checkpoint.stream, "partition": checkpoint.partition, "checkpoint": checkpoint.seq}
    if checkpoint.stream_created != stream.created:
        return StreamReplaced(
            "the stream was created anew", then=checkpoint.stream_created, now=stream.created, **where
        )
    if stream.last_seq < checkpoint.seq:
        return StreamReplaced("the stream ends below the checkpoint", last_seq=stream.last_seq, **where)
    if (
        checkpoint.stored_at is not None
        and stream.at_checkpoint is not None
        and checkpoint.stored_at != stream.at_checkpoint
    ):
        return StreamReplaced(
            "another message stands at the checkpoint's sequence",
            then=checkpoint.stored_at,
            now=stream.at_checkpoint,
            **where,
        )
    if checkpoint.seq + 1 < stream.first_seq:
        return LogGap(
            "the log's window has passed the checkpoint",
            first_seq=stream.first_seq,
            sequences_lost_max=stream.first_seq - checkpoint.seq - 1,
            **where,
        )
    return None
