"""Readers that are lent and given back at any moment: each has what is its partition's, once and in order."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus.pull import PinnedReader
from coord.bus.riding import Ride
from coord.bus.shared import SharedConsumer, SharedReader
from coord.bus.topology import load
from coord.runtime import assets
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from tests.support.lending import Consumer, Memory, begin

SPEC = load(assets.streams_dir()).get("EVENTS/projector-0")
MESSAGES = 300


class Run:
    """Sixteen readers of one stream, and somebody who lends them and takes them back."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.memory = Memory(self.rng)
        self.got: list[list[int]] = [[] for _ in range(limits.PARTITIONS)]
        self.readers = []
        for p in range(limits.PARTITIONS):
            prefix = subjects.partition_filter("EVENTS", p)[:-1].encode()
            self.memory.consumers[f"projector-{p}"] = Consumer(prefix, 1)
            self.readers.append(PinnedReader(self.memory, "EVENTS", f"projector-{p}", messages_max=20))  # type: ignore[arg-type]
        metrics = Metrics(CollectorRegistry())
        self.shared = SharedReader(self.memory, "EVENTS", self.readers, SPEC, metrics)  # type: ignore[arg-type]

    @property
    def lender(self) -> SharedConsumer | None:
        consumer = self.shared._consumer
        assert not isinstance(consumer, Ride)
        return consumer

    async def begin(self, p: int) -> None:
        """A session from where the last one ended."""
        await begin(self.readers[p], self.got[p])

    async def lend(self) -> None:
        slots = frozenset(slot for slot, place in enumerate(self.shared._places()) if place.position is not None)
        if not slots:
            return
        self.memory.meanwhile = self.sessions_end
        try:
            await self.shared._gather(slots)
        finally:
            self.memory.meanwhile = None

    async def sessions_end(self) -> None:
        """While somebody is lent: the server sends on, and some go back to their checkpoints."""
        meanwhile, self.memory.meanwhile = self.memory.meanwhile, None
        self.memory.turn()
        for p in range(limits.PARTITIONS):
            if self.rng.random() < 0.05:
                await self.begin(p)
        self.memory.meanwhile = meanwhile

    async def part(self) -> None:
        await self.shared._part(None)

    async def take(self, p: int) -> None:
        try:
            taken = self.readers[p].take(self.rng.randrange(1, 9))
        except errors.CoordError:
            await self.begin(p)
            return
        keep = self.rng.randrange(len(taken) + 1)
        self.readers[p].put_back(taken[keep:])
        self.got[p] += [d.seq for d in taken[:keep]]
        if keep and self.rng.random() < 0.5:
            self.readers[p].ack(taken[keep - 1])

    async def all(self, loss: float) -> None:
        rng, memory = self.rng, self.memory
        memory.lose = lambda: rng.random() < loss
        for p in range(limits.PARTITIONS):
            await self.begin(p)
        for step in range(400):
            if len(memory.messages) < MESSAGES:
                p = rng.randrange(limits.PARTITIONS + 1)  # the last: a stray, which is nobody's
                memory.messages.append(f"coord.log.{p}.t.k.note.n.a.said".encode())
            memory.turn()
            p = rng.randrange(limits.PARTITIONS)
            what = rng.random()
            if what < 0.03:
                await self.lend()
            elif what < 0.05:
                await self.part()
            elif what < 0.08:
                await self.readers[p].reclaim()
            elif what < 0.11:
                await self.begin(p)
            elif what < 0.2:
                memory.expire()
            else:
                await self.take(p)
            if self.lender is not None and self.lender.broken is not None:
                await self.part()
            if step % 3 == 0:
                await asyncio.sleep(0)
        memory.lose = lambda: False
        for turn in range(1, 1_000):
            short = [p for p in range(limits.PARTITIONS) if self.got[p] != self.wanted(p)]
            if not short:
                return
            memory.turn()
            memory.expire()
            for p in short:
                await self.take(p)
                if loss and turn % 50 == 0:
                    await self.begin(p)  # as whoever knows that something is overdue
            if self.lender is not None and self.lender.broken is not None:
                await self.part()
            await asyncio.sleep(0)

    def wanted(self, p: int) -> list[int]:
        prefix = subjects.partition_filter("EVENTS", p)[:-1].encode()
        return [seq for seq, m in enumerate(self.memory.messages, 1) if m.startswith(prefix)]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.01, 0.1]))
def test_every_partition_has_its_messages_once_and_in_order(seed: int, loss: float) -> None:
    async def go() -> Run:
        run = Run(seed)
        async with asyncio.timeout(60):
            await run.all(loss)
        return run

    run = asyncio.run(go())
    for p in range(limits.PARTITIONS):
        assert run.got[p] == run.wanted(p), f"partition {p}"


async def lent(count: int) -> Run:
    """All readers are lent at the beginning; then `count` messages are fed to partition 0 alone."""
    run = Run(0)
    for p in range(limits.PARTITIONS):
        await run.begin(p)
    await run.shared._gather(frozenset(range(limits.PARTITIONS)))
    for _ in range(count):
        run.memory.messages.append(b"coord.log.0.t.k.note.n.a.said")
    while run.readers[0].buffered < count:
        run.memory.turn()
    return run


async def test_a_session_that_began_anew_behind_the_consumer_is_not_lent() -> None:
    run = Run(1)
    run.memory.messages += [b"coord.log.0.t.k.note.n.a.said"] * 8
    for p in range(limits.PARTITIONS):
        await run.begin(p)
    while run.readers[0].buffered < 8:
        run.memory.turn()
    for reader in run.readers[1:]:
        reader.passed(8)

    async def begin_anew() -> None:
        run.memory.meanwhile = None
        await run.begin(0)

    run.memory.meanwhile = begin_anew
    await run.shared._gather(frozenset(range(limits.PARTITIONS)))
    assert [reader.is_lent for reader in run.readers] == [False] + [True] * (limits.PARTITIONS - 1)
    while len(run.got[0]) < 8:
        run.memory.turn()
        await run.take(0)
    assert run.got[0] == run.wanted(0)


async def test_whoever_is_given_back_resets_to_its_checkpoint_and_has_nothing_twice() -> None:
    run = await lent(8)
    reader = run.readers[0]
    taken = reader.take(6)
    reader.ack(taken[3])
    run.memory.resets.clear()
    await reader.reclaim()
    assert run.memory.resets == [taken[3].seq + 1]
    run.memory.messages.append(b"coord.log.0.t.k.note.n.a.said")
    while reader.buffered < 3:
        run.memory.turn()
    assert [d.seq for d in [*taken, *reader.take(9)]] == run.wanted(0)


async def test_a_reset_does_not_outlive_its_session(monkeypatch: Any) -> None:
    run = await lent(4)
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def api(*_: Any, **__: Any) -> Any:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    monkeypatch.setattr(run.memory, "api", api)
    async with asyncio.timeout(60):
        reclaiming = asyncio.create_task(run.readers[0].reclaim())
        await asked.wait()
        await run.readers[0].stop()
        assert given_up.is_set()
        await reclaiming


async def test_a_lost_pin_is_said_however_much_is_to_be_fed() -> None:
    run = await lent(4)
    reader = run.readers[0]
    reader._break(errors.PinLost())
    run.memory.messages += [b"coord.log.0.t.k.note.n.a.said"] * 4
    lender = run.lender
    assert lender is not None
    while lender.position < 8:
        run.memory.turn()
    assert not reader.is_lent
    assert run.shared._places()[0].position is None
    assert [d.seq for d in reader.take(9)] == [1, 2, 3, 4]
    with pytest.raises(errors.PinLost):
        reader.take(9)


async def test_a_consumer_that_feeds_nobody_any_more_ends() -> None:
    run = await lent(1)
    for reader in run.readers:
        await reader.stop()
    await run.shared._look()
    assert run.lender is None
