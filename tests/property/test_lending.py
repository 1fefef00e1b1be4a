"""Readers that are lent and given back at any moment: each has what is its partition's, once and in order."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from coord import errors, limits
from coord.bus.pull import PinnedReader
from coord.bus.shared import SharedConsumer
from coord.bus.topology import for_all_partitions, load
from coord.runtime import assets
from coord.wire import subjects
from tests.support.lending import Consumer, Memory

SPEC = load(assets.streams_dir()).get("EVENTS/projector-0")
MESSAGES = 300


class Run:
    """Sixteen readers of one stream, and somebody who lends them and takes them back."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.memory = Memory(self.rng)
        self.lender: SharedConsumer | None = None
        self.got: list[list[int]] = [[] for _ in range(limits.PARTITIONS)]
        self.readers = []
        for p in range(limits.PARTITIONS):
            prefix = subjects.partition_filter("EVENTS", p)[:-1].encode()
            self.memory.consumers[f"projector-{p}"] = Consumer(prefix, 1)
            self.readers.append(PinnedReader(self.memory, "EVENTS", f"projector-{p}", messages_max=20))  # type: ignore[arg-type]

    async def begin(self, p: int) -> None:
        """A session from where the last one ended."""
        reader = self.readers[p]
        await reader.stop()
        reader._pin = "pin"
        await reader.start((self.got[p] or [0])[-1] + 1)
        reader.may_be_lent()

    async def lend(self) -> None:
        lent = [r for r in self.readers if r.is_lendable or r.is_lent]
        if not lent:
            return
        if self.lender is not None:
            start = min(self.lender.position if r.is_lent else r.position for r in lent)
        else:
            start = min(r.position for r in lent)
        lender = SharedConsumer(self.memory, for_all_partitions(SPEC, behind=start), self.readers, asyncio.Event())  # type: ignore[arg-type]
        await lender.create(start)
        if self.lender is not None:
            await self.lender.end()
        self.lender = lender
        for reader in lent:
            await reader.lend(lender)
        lender.begin()

    async def part(self) -> None:
        lender, self.lender = self.lender, None
        if lender is not None:
            await lender.end()
        await asyncio.gather(*(reader.reclaim() for reader in self.readers))

    async def take(self, p: int) -> None:
        try:
            taken = self.readers[p].take(self.rng.randrange(1, 9))
        except errors.CoordError:
            await self.begin(p)
            return
        keep = self.rng.randrange(len(taken) + 1)
        self.readers[p].put_back(taken[keep:])
        self.got[p] += [d.seq for d in taken[:keep]]

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
