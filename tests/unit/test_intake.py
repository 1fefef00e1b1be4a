"""What arrives for one session becomes batches and offers; what goes wrong midway is never committed in part."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus.pull import Delivery
from coord.core import chain
from coord.core.checkpoint import Checkpoint
from coord.projector.intake import Intake
from coord.projector.partition import PartitionProjector
from coord.projector.rows import Batch
from coord.projector.writer import Offer, Writer
from coord.runtime.bell import Bell
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.readings import Readings
from tests.support.intake import Breaking, Prefetched

SUBJECT = subjects.FactSubject("t", "a", "k", "note", "n", "said").stored
AGENT = subjects.FactSubject("t", "a", "a", "agent", "a", "status").stored
MARK = Checkpoint(
    stream="EVENTS",
    partition=subjects.partition("k"),
    stream_created=datetime(2026, 1, 1, tzinfo=UTC),
    epoch=1,
    seq=0,
    stored_at=None,
)


def message(seq: int, body: bytes = b"{}", subject: str = SUBJECT) -> Delivery:
    return Delivery(seq, time.time_ns(), subject, None, body)


class Session:
    """An intake whose writer has no lanes: the test is the lane."""

    def __init__(self, *, rows_max: int = 1000, readings: Any = None) -> None:
        self.source, self.bell = Prefetched(), Bell()
        nothing = cast("Any", None)
        self.writer = Writer(nothing, nothing, Metrics(CollectorRegistry()), rows_max=rows_max)
        self.committed: list[int] = []
        self.intake = Intake(
            cast("Any", self.source), self.writer, MARK, self.bell, readings=readings, received=lambda _: None,
            committed=lambda batch, move, _: self.committed.append(move.after.seq),
        )  # fmt: skip

    async def arrive(self, *messages: Delivery) -> None:
        self.source.buffer += messages
        self.intake.wake()
        await asyncio.sleep(0)

    @property
    def waiting(self) -> list[list[int]]:
        """Sequences of each offer that may be taken."""
        return [[row[2] for row in offer.batch.events] for offer in self.writer._waiting]

    def take(self) -> Offer:
        """As a lane does."""
        offer = self.writer._waiting.popleft()
        offer.close()
        return offer

    async def commit(self, offer: Offer) -> None:
        offer.settled.set_result(offer.move(0.0))
        for _ in range(3):  # settled, woken, turn
            await asyncio.sleep(0)


async def test_a_batch_grows_until_it_is_taken_and_the_next_is_offered_when_it_is_settled() -> None:
    s = Session()
    await s.arrive(message(1))
    await s.arrive(message(2))
    assert s.waiting == [[1, 2]]
    first = s.take()
    await s.arrive(message(3))
    assert s.waiting == []
    await s.commit(first)
    assert (s.committed, s.waiting, s.intake.checkpoint.seq) == ([2], [[3]], 2)
    await s.commit(s.take())
    assert s.intake.is_idle
    digest = MARK.digest
    for one in (message(1), message(2), message(3)):
        digest = chain.extend(digest, one.seq, one.subject, one.raw_headers, one.data)
    assert (s.intake.checkpoint.messages, s.intake.checkpoint.digest) == (3, digest)


@pytest.mark.parametrize("bad", [1, 3])
async def test_a_defect_midway_withdraws_what_was_offered_in_the_same_moment(bad: int) -> None:
    s = Session(readings=Breaking(bad))
    if bad > 1:
        await s.arrive(message(1))
        assert s.waiting == [[1]]
    await s.arrive(message(2 if bad > 1 else 1), message(3))
    assert s.waiting == []
    with pytest.raises(errors.CoordError, match="a defect: MemoryError"):
        s.intake.check()
    await s.arrive(message(4))
    assert s.waiting == []
    await asyncio.wait_for(s.intake.end(), 5)


async def test_after_a_defect_what_is_being_written_settles_and_nothing_follows_it() -> None:
    s = Session(readings=Breaking(4))
    await s.arrive(message(1))
    first = s.take()
    await s.arrive(message(2))
    first.settled.set_result(first.move(0.0))
    s.source.buffer += [message(3), message(4)]
    s.intake.turn()  # in the turn of the loop in which the first one settles
    await asyncio.sleep(0)
    assert (s.committed, s.waiting) == ([1], [])


async def test_an_offer_that_fails_ends_the_session() -> None:
    s = Session()
    await s.arrive(message(1))
    s.take().fail(errors.CheckpointMoved())
    await asyncio.sleep(0)
    with pytest.raises(errors.CheckpointMoved):
        s.intake.check()
    await asyncio.wait_for(s.bell.wait(5), 1)
    await asyncio.wait_for(s.intake.end(), 5)


async def test_whoever_leaves_takes_no_more_and_the_bell_rings_when_all_is_committed() -> None:
    s = Session()
    await s.arrive(message(1))
    first = s.take()
    await s.arrive(message(2))
    s.intake.leave()
    await s.arrive(message(3))
    await s.commit(first)
    assert s.waiting == [[2]]
    s.bell.silence()
    await s.commit(s.take())
    assert s.intake.is_idle
    await asyncio.wait_for(s.bell.wait(5), 1)
    assert [d.seq for d in s.source.buffer] == [3]


async def test_while_it_is_held_nothing_is_taken_and_it_goes_on_behind_the_checkpoint_it_is_given() -> None:
    s = Session()
    s.intake.hold()
    await s.arrive(message(6))
    assert (s.waiting, len(s.source.buffer)) == ([], 1)
    s.intake.hold(msgspec.structs.replace(MARK, seq=5, digest=77, messages=2))
    await asyncio.sleep(0)
    offer = s.take()
    assert (offer.before.seq, offer.move(0.0).after.messages) == (5, 3)
    assert offer.batch.digest == chain.extend(77, 6, SUBJECT, None, b"{}")


async def test_what_is_full_takes_no_more_until_it_is_taken() -> None:
    s = Session(rows_max=2)
    await s.arrive(*map(message, range(1, 8)))
    for _ in range(3):
        await asyncio.sleep(0)
    assert (s.waiting, [d.seq for d in s.source.buffer]) == ([[1, 2]], [3, 4, 5, 6, 7])
    first = s.take()
    for _ in range(3):
        await asyncio.sleep(0)
    assert [d.seq for d in s.source.buffer] == [5, 6, 7], "decoded while the one before it is written"
    await s.commit(first)
    assert (s.waiting, s.committed) == ([[3, 4]], [2])


async def test_the_end_forgets_what_nobody_has_taken_and_waits_for_what_is_being_written() -> None:
    s = Session()
    await s.arrive(message(1))
    await asyncio.wait_for(s.intake.end(), 5)
    assert s.waiting == []
    s = Session()
    await s.arrive(message(1))
    first = s.take()
    ending = asyncio.ensure_future(s.intake.end())
    await asyncio.sleep(0)
    assert not ending.done()
    first.settled.set_result(first.move(0.0))
    await asyncio.wait_for(ending, 5)
    assert s.committed == [], "the session reads its checkpoint again"


def test_a_fill_that_fails_adds_nothing() -> None:
    batch = Batch("EVENTS", MARK.partition, 1, MARK.digest)
    batch.fill([message(1, b'{"status":"busy"}', AGENT), message(2, b"\xff")], 100, 100)
    held = batch.digest, batch.bytes, batch.messages, batch.last, *map(len, batch._held)
    assert min(len(batch.events), len(batch.letters), len(batch.agents())) == 1
    batch.readings = cast("Readings", Breaking(5))
    with pytest.raises(MemoryError):
        batch.fill([message(3, b'{"status":"idle"}', AGENT), message(4, b"\xff"), message(5)], 100, 100)
    assert held == (batch.digest, batch.bytes, batch.messages, batch.last, *map(len, batch._held))


async def test_what_arrives_wakes_no_session_with_a_consumer_though_one_without_is_over() -> None:
    mine = PartitionProjector.__new__(PartitionProjector)
    mine._bell = Bell()
    mine._intake = cast("Any", SimpleNamespace(wake=lambda: None))
    mine._reader = mine._source = cast("Any", object())
    mine._unled = cast("Any", SimpleNamespace(is_over=True))  # as it was left
    mine._wake()
    assert not mine._bell._rung
    mine._source = mine._unled
    mine._wake()
    assert mine._bell._rung
