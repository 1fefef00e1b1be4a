"""Figures of publishing: through `emit()` against a bare loop, one by one and in frames.

single_ratio        acked single facts/s through `emit()` ÷ `BareLoop` with messages of the same
                    subjects, headers and bytes.  coord's side makes the facts, their ids, times,
                    headers and JSON inside the clock; the bare side finds all that ready.
frame_facts_per_s   samples/s through `sample()` one by one until all are acknowledged, in frames
                    that the publisher makes by itself
frame_ratio         samples/s through `emit_many()` ÷ `BareLoop` with the ready frames of 100.
                    coord's side makes each `Sample` inside the clock.
overhead_saved      1 − CPU per sample in frames ÷ CPU per sample one a message, client and
                    nats-server together: the same samples through the same `sample()`

Both sides run in this process under uvloop, each on a connection of its own, on streams as
streams/ defines them.  A round ends when everything is acknowledged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from coord import limits
from coord.client.config import PublisherConfig
from coord.client.connect import Coord
from coord.ops.bench import workload
from coord.ops.bench.author import AGENT, author
from coord.ops.bench.bare import BareLoop
from coord.ops.bench.measure import (
    BenchError,
    Clock,
    Figures,
    Run,
    Side,
    alternate,
    cpu_us,
    quiet_heap,
    rates,
    ratios,
    settle,
)
from coord.wire.envelope import Encoded

_WARM_UP: Final = 10
"""A first round of this share is not counted: caches fill, the broker opens its files."""

_FRAMES: Final = 1_000
"""Distinct ready frames; more are these again under other ids."""


class Counts(msgspec.Struct, frozen=True):
    """How much each round publishes."""

    singles: int
    samples: int
    samples_many: int


Group: TypeAlias = Literal["singles", "frames", "samples"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
"""What is compared: `emit` with a bare loop, `emit_many` with ready frames, samples in frames with samples alone."""


async def publishing(
    nats_url: str,
    nats_pid: int,
    counts: Counts,
    rounds: int,
    say: Callable[[str], None],
    groups: Sequence[Group] = GROUPS,
) -> tuple[Figures, dict[str, list[Run]]]:
    """The figures of publishing, and the rounds behind them."""
    found: dict[str, list[Run]] = {}
    async with AsyncExitStack() as stack:
        bench = await _Bench.open(stack, nats_url, nats_pid, counts)
        for group in groups:
            say(f"  {group}")
            sides = bench.sides(group)
            for side in sides.values():
                await bench.warmed(side)
            found |= await alternate(rounds, sides, say)
    return _figures(found), found


def _figures(found: dict[str, list[Run]]) -> Figures:
    figures: Figures = {}
    if "emit" in found:
        figures |= {
            "single_ratio": ratios(found["emit"], found["bare"]),
            "single_facts_per_s": rates(found["emit"]),
            "single_cpu_us": cpu_us(found["emit"]),
        }
    if "sample_framed" in found:
        figures["frame_facts_per_s"] = rates(found["sample_framed"])
    if "emit_many" in found:
        figures["frame_ratio"] = ratios(found["emit_many"], found["bare_frames"])
    if "sample_framed" in found:
        framed, alone = cpu_us(found["sample_framed"]), cpu_us(found["sample_alone"])
        figures["frame_cpu_us"] = framed
        figures["overhead_saved"] = [1 - f / a for f, a in zip(framed, alone, strict=True)]
    return figures


class _Bench:
    """The sides; each is called once a round."""

    def __init__(self, nats_pid: int, counts: Counts, coord: Coord, alone: Coord, bare: BareLoop) -> None:
        self._nats_pid = nats_pid
        self._counts = counts
        self._coord = coord
        self._alone = alone
        self._bare = bare
        self._data = workload.bodies()
        self._values = workload.numbers()
        self._frames: list[Encoded] = []
        self._share = 1

    @classmethod
    async def open(cls, stack: AsyncExitStack, nats_url: str, nats_pid: int, counts: Counts) -> _Bench:
        """Connect; `stack` closes."""
        coord = await stack.enter_async_context(author(nats_url))
        # One sample a message; and nothing may be shed while the broker is the slower side.
        room = max(limits.PUBLISH_QUEUE_ENTRIES, counts.samples)
        alone = await stack.enter_async_context(
            author(nats_url, PublisherConfig(metrics_entries=1, queue_entries=room))
        )
        bare = await stack.enter_async_context(BareLoop(nats_url))
        return cls(nats_pid, counts, coord, alone, bare)

    def sides(self, group: Group) -> dict[str, Side]:
        """What is compared with what."""
        match group:
            case "singles":
                return {"emit": self.emit, "bare": self.bare}
            case "frames":
                return {"emit_many": self.emit_many, "bare_frames": self.bare_frames}
            case "samples":
                return {"sample_framed": self.sample_framed, "sample_alone": self.sample_alone}

    async def warmed(self, side: Side) -> None:
        """One short round of a side."""
        self._share = _WARM_UP
        try:
            await side()
        finally:
            self._share = 1

    # --- coord's sides -------------------------------------------------------------------

    async def emit(self) -> Run:
        """Facts of the critical class, one by one."""
        count = max(1, self._counts.singles // self._share)
        emit = self._coord.emit
        with quiet_heap():
            clock = self._clock()
            for fact in workload.facts(count, self._data):
                await emit(fact)
            return await self._ended(clock, self._coord, count)

    async def sample_framed(self) -> Run:
        """Samples one by one, which the publisher puts into frames."""
        return await self._sample(self._coord, self._counts.samples)

    async def sample_alone(self) -> Run:
        """The same, a message each."""
        return await self._sample(self._alone, self._counts.singles)

    async def _sample(self, coord: Coord, count: int) -> Run:
        count = max(1, count // self._share)
        sample, values, series = coord.sample, self._values, workload.SERIES[0]
        size = len(values)
        with quiet_heap():
            clock = self._clock()
            for i in range(count):
                await sample(series, values[i % size])
            return await self._ended(clock, coord, count)

    async def emit_many(self) -> Run:
        """Samples as an iterable."""
        count = max(1, self._counts.samples_many // self._share)
        with quiet_heap():
            clock = self._clock()
            await self._coord.emit_many(workload.samples(count, self._values))
            return await self._ended(clock, self._coord, count)

    async def _ended(self, clock: Clock, coord: Coord, count: int) -> Run:
        before = coord.stats
        await coord.flush()
        clock.stop()
        await settle()
        clock.settle()
        stats = coord.stats
        if stats.acked != stats.accepted or stats.shed:
            raise BenchError("not everything was stored", accepted=stats.accepted, acked=stats.acked, shed=stats.shed)
        return clock.run(count, resends=stats.resends - before.resends)

    # --- the bare sides ------------------------------------------------------------------

    async def bare(self) -> Run:
        """Ready messages of single facts."""
        count = max(1, self._counts.singles // self._share)
        return await self._bare_run(workload.encoded_facts(count, self._data, [AGENT]), count)

    async def bare_frames(self) -> Run:
        """Ready frames."""
        frames = max(1, self._counts.samples_many // workload.FRAME // self._share)
        if not self._frames:
            self._frames = workload.sample_frames(_FRAMES, self._values, [AGENT])
        messages = list(itertools.islice(itertools.cycle(self._frames), frames))
        return await self._bare_run(workload.with_new_ids(messages), frames * workload.FRAME)

    async def _bare_run(self, messages: list[Encoded], count: int) -> Run:
        with quiet_heap():
            clock = self._clock()
            await self._bare.publish(messages)
            clock.stop()
            await settle()
            clock.settle()
        return clock.run(count)

    def _clock(self) -> Clock:
        return Clock(server=self._nats_pid)
