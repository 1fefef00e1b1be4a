"""May a partition go on from its checkpoint?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from coord.core.checkpoint import Checkpoint, StreamState, judge, witness
from coord.errors import LogGap, ProjectionStopped, StreamReplaced

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CHECKPOINT = Checkpoint(stream="EVENTS", partition=3, stream_created=T0, epoch=1, seq=100, stored_at=T0)


def state(first: int, last: int, *, created: datetime = T0, at: datetime | None = T0) -> StreamState:
    return StreamState(created=created, first_seq=first, last_seq=last, at_checkpoint=at)


@pytest.mark.parametrize(
    ("stream", "verdict"),
    [
        (state(1, 100), None),
        (state(1, 5000), None),
        (state(100, 100), None),
        (state(101, 100, at=None), None),  # everything aged out, nothing lost
        (state(101, 200, at=None), None),  # the next one is the window's first
        (state(102, 200, at=None), LogGap),
        (state(1, 99, at=None), StreamReplaced),
        (state(1, 0, at=None), StreamReplaced),
        (state(1, 200, created=T0 + timedelta(seconds=1)), StreamReplaced),
        (state(1, 200, at=T0 + timedelta(microseconds=1)), StreamReplaced),
        (state(1, 200, at=None), None),  # the message at the checkpoint was deleted: nothing to compare
    ],
)
def test_judgement(stream: StreamState, verdict: type[ProjectionStopped] | None) -> None:
    problem = judge(CHECKPOINT, stream)
    assert (type(problem) if problem else None) is verdict


def test_a_gap_says_how_much_at_most_was_lost() -> None:
    problem = judge(CHECKPOINT, state(111, 200, at=None))
    assert problem is not None
    assert problem.details["sequences_lost_max"] == 10


def test_a_fresh_checkpoint_accepts_an_empty_and_a_young_stream() -> None:
    fresh = Checkpoint(stream="EVENTS", partition=0, stream_created=T0, epoch=1, seq=0, stored_at=None)
    assert judge(fresh, state(0, 0, at=None)) is None
    assert judge(fresh, state(1, 9, at=None)) is None


def test_the_furthest_checkpoint_of_the_epoch_tells_of_a_lost_tail() -> None:
    behind = msgspec.structs.replace(CHECKPOINT, partition=4, seq=50)
    newer = msgspec.structs.replace(CHECKPOINT, partition=5, epoch=2, seq=900)
    assert witness(behind, [behind, CHECKPOINT, newer]) == CHECKPOINT
    assert witness(newer, [behind, CHECKPOINT, newer]) == newer
    assert witness(behind, []) == behind
    lost = state(1, 80, at=None)
    assert judge(behind, lost) is None
    assert isinstance(judge(witness(behind, [CHECKPOINT]), lost), StreamReplaced)
