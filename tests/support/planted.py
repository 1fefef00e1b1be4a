"""Bugs to plant on purpose, so that what should find them can be shown to.

`plant(bug)` changes this process for good: for programs that live for one run.  Tests of the
suite use `replacements(bug)` with pytest's monkeypatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

Bug = Literal["lost_ack", "unguarded_checkpoint", "swallowed_batch", "trusted_consumer"]
"""
lost_ack              publisher: what was in flight when the connection broke counts as acknowledged
unguarded_checkpoint  projector: the checkpoint moves whatever it was before
swallowed_batch       projector: the first batch's rows and every tenth's after it are not written, its checkpoint moves
trusted_consumer      projector: what was delivered counts as done, whatever the checkpoint says
"""
BUGS: tuple[Bug, ...] = get_args(Bug)

Replacement = tuple[object, str, Any]
"""(object, attribute, new value)."""


def plant(bug: Bug) -> None:
    """Have the bug in this process from now on."""
    for target, name, value in replacements(bug):
        setattr(target, name, value)


def replacements(bug: Bug) -> Iterator[Replacement]:
    """What has to be replaced to have the bug."""
    return {
        "lost_ack": _lost_ack,
        "unguarded_checkpoint": _unguarded_checkpoint,
        "swallowed_batch": _swallowed_batch,
        "trusted_consumer": _trusted_consumer,
    }[bug]()


def _lost_ack() -> Iterator[Replacement]:
    from coord.bus.publish import AckPipeline, PubAck

    disconnected = AckPipeline._disconnected

    def optimistic(self: AckPipeline) -> None:
        disconnected(self)
        pending, self._pending = self._pending, {}
        for publication in pending.values():
            self._settle(publication, PubAck("EVENTS", 0), None)

    yield AckPipeline, "_disconnected", optimistic


def _unguarded_checkpoint() -> Iterator[Replacement]:
    from coord.store import checkpoints

    async def unguarded(db: Any, moves: Any) -> list[Any]:
        for move in sorted(moves, key=lambda m: (m.after.stream, m.after.partition)):  # no deadlocks besides
            await db.execute(
                "UPDATE coord.checkpoint SET seq = $3, stored_at = $4, pending = $5"
                " WHERE stream = $1 AND partition = $2",
                move.after.stream, move.after.partition, move.after.seq, move.after.stored_at, move.pending,
            )  # fmt: skip
        return []

    yield checkpoints, "advance_all", unguarded


def _swallowed_batch() -> Iterator[Replacement]:
    from coord.store import copy

    copy_events, calls = copy.events, 0

    async def now_and_then(conn: Any, rows: Any) -> None:
        nonlocal calls
        calls += bool(rows)
        if not rows or calls % 10 != 1:
            await copy_events(conn, rows)

    yield copy, "events", now_and_then


def _trusted_consumer() -> Iterator[Replacement]:
    from coord.bus.pull import PinnedReader

    start = PinnedReader.start

    async def trusting(self: PinnedReader, seq: int) -> None:
        info = await self._conn.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        await start(self, max(seq, info["delivered"]["stream_seq"] + (seq > 1)))

    yield PinnedReader, "start", trusting
