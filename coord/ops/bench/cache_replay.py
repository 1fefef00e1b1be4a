"""A fleet's caches through a recording, in its time and nobody's: what each tier answers, and what could have been.

Real caches (`coord.cache.loading.Cache`), one a process, on a clock that goes from one step to the next; below them
tiers that drop what is oldest when they are full and are written again by `coord.core.aging`, as the broker's are.  The
database is a dictionary of versions.  Notices arrive some milliseconds after the commit, later in one process than in
another.  Every answer is held against what its process had heard: an older one is stale.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import math
import os
import random
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry

from coord import limits
from coord.cache.config import CacheConfig
from coord.cache.functions import CachedFunction, Functions
from coord.cache.loading import Cache, Loaded
from coord.core.aging import Window
from coord.core.eviction import Place, Source
from coord.ops.bench import cache_bound
from coord.ops.bench.cache_traces import Step
from coord.ops.bench.measure import rounded, rss_bytes
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice

_LAG_S: Final = 0.002
"""From a commit until the first process hears of it, and between it and the next."""
_SWEEP_S: Final = 1.0
_TEXT_BYTES: Final = 1_024
_BEGAN: Final = 1_700_000_000.0


class ReplayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How large the fleet's tiers are, beside a working set of two to four MB."""

    processes: int = 8
    l1_bytes: int = 256 * limits.KIB
    """Of each process;"""
    l2_bytes: int = 1 * limits.MIB
    """of all,"""
    l3_bytes: int = 10 * limits.MIB
    """and of all: one to ten, as the defaults have it."""


class Answer(msgspec.Struct, frozen=True):
    """What is asked for."""

    version: int
    text: str


class Body(msgspec.Struct, frozen=True):
    """What a tier has under a name."""

    seq: int
    body: bytes
    expires: float


class ModelTier:
    """Bytes under names in the order in which they came; the oldest leave when there are too many."""

    def __init__(self, name: str, bytes_max: int, life_s: float, now: Clock) -> None:
        self.name = name
        self.life_s = life_s
        self.bytes = self.bytes_most = 0
        self.bytes_max = bytes_max
        self.asked = array("l")
        """For the bound."""
        self._now = now
        self._seq = 0
        self._bodies: OrderedDict[str, Body] = OrderedDict()

    @property
    def entries(self) -> int:
        """How many there are."""
        return len(self._bodies)

    async def get(self, name: str, /) -> Body | None:
        """As `coord.cache.tier.Tier` has it; so are the others."""
        found = self._bodies.get(name)
        return None if found is None or found.expires <= self._now() else found

    async def put(self, name: str, body: bytes, /, *, ttl_s: float, over: int | None = None) -> int | None:
        """Which write it was."""
        held = await self.get(name)
        if over is not None and (0 if held is None else held.seq) != over:
            return None
        await self.drop(name)
        self._seq += 1
        self._bodies[name] = Body(self._seq, body, self._now() + min(ttl_s, self.life_s))
        self.bytes += len(name) + len(body)
        while self.bytes > self.bytes_max:
            await self.drop(next(iter(self._bodies)))
        self.bytes_most = max(self.bytes_most, self.bytes)
        return self._seq

    async def drop(self, name: str, /) -> None:
        """Have nothing there."""
        if (held := self._bodies.pop(name, None)) is not None:
            self.bytes -= len(name) + len(held.body)

    async def look(self) -> None:
        """It is known."""

    def is_aging(self, seq: int, /) -> bool:
        """Whether it is to be put again."""
        first = next(iter(self._bodies.values())).seq if self._bodies else 0
        return Window(first, self._seq, self.bytes, self.bytes_max).is_aging(seq)


class Clock:
    """Goes where it is put."""

    def __init__(self) -> None:
        self.now = _BEGAN

    def __call__(self) -> float:
        """Unix time, or monotonic: seconds."""
        return self.now


class Tables:
    """Versions of keys, and up to where each partition is committed."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.marks: dict[Source, Place] = {}
        self.loads = 0
        self._seq = 0
        self._last: dict[int, int] = {}

    def commit(self, key: str) -> tuple[int, bytes]:
        """A fact about `key`: its sequence and the notice of it."""
        self._seq += 1
        partition = subjects.partition(key)
        self.versions[key] = self._seq
        self.marks[subjects.EVENTS, partition] = (1, self._seq)
        notice = Notice(
            stream=subjects.EVENTS, epoch=1, partition=partition, session="s", from_=self._last.get(partition, 0),
            to=self._seq, tags=[f"key:{key}"],
        )  # fmt: skip
        self._last[partition] = self._seq
        return self._seq, notices.encode(notice)

    def read(self, key: str) -> Loaded:
        """One question to the database."""
        self.loads += 1
        text = random.Random(f"{key}/{self.loads}").randbytes(_TEXT_BYTES // 2).hex()
        return Loaded(Answer(self.versions.get(key, 0), text), dict(self.marks))


class Process:
    """One process of the fleet: its cache, what it has heard, and what it was asked."""

    def __init__(
        self, number: int, config: ReplayConfig, tiers: tuple[ModelTier, ...], clock: Clock, db: Tables
    ) -> None:
        self.cache = Cache(
            CacheConfig(l1_bytes=config.l1_bytes), metrics=Metrics(CollectorRegistry()), rng=random.Random(number),
            monotonic=clock, wall=clock, tiers=tiers,
        )  # fmt: skip
        self.heard: dict[str, int] = {}
        self.asked = array("l")
        self.cache.connected()
        for stream in (subjects.EVENTS, subjects.TELEMETRY):
            for partition in range(limits.PARTITIONS):
                beat = Notice(stream=stream, epoch=1, partition=partition, session="s", from_=0, to=0, tags=[])
                self.cache.hear_beat(notices.encode(beat))

        @Functions(self.cache).cached("{key}", tags=["key:{key}"], shared=Answer)
        async def answer(key: str) -> Loaded:
            return db.read(key)

        self.answer: CachedFunction[Answer] = answer

    def hear(self, key: str, seq: int, body: bytes) -> None:
        """A notice."""
        self.cache.hear(body)
        self.heard[key] = seq


class Fleet:
    """All of them."""

    def __init__(self, config: ReplayConfig) -> None:
        self.clock = Clock()
        self.tables = Tables()
        self.tiers = (
            ModelTier("l2", config.l2_bytes, limits.CACHE_L2_TTL_S, self.clock),
            ModelTier("l3", config.l3_bytes, limits.CACHE_L3_TTL_S, self.clock),
        )
        self.processes = [
            Process(n, config, self.tiers, self.clock, self.tables) for n in range(config.processes)
        ]  # fmt: skip
        self.stale = 0
        self.all = array("l")
        self.keys: dict[str, int] = {}
        """Their numbers."""
        self._under_way: list[tuple[float, int, int, str, bytes]] = []
        self._swept_at = 0.0

    async def play(self, steps: Iterable[Step]) -> None:
        """Step after step."""
        for step in steps:
            self.clock.now = _BEGAN + step.at
            self._deliver()
            if step.process < 0:
                self._commit(step.key)
            else:
                await self._ask(self.processes[step.process], step.key)

    def _commit(self, key: str) -> None:
        seq, body = self.tables.commit(key)
        for number in range(len(self.processes)):
            heapq.heappush(self._under_way, (self.clock.now + _LAG_S * (1 + number), number, seq, key, body))
        for events in (self.all, *(tier.asked for tier in self.tiers)):
            events.append(~self._number(key))

    def _deliver(self) -> None:
        now = self.clock.now
        while self._under_way and self._under_way[0][0] <= now:
            _, number, seq, key, body = heapq.heappop(self._under_way)
            self.processes[number].hear(key, seq, body)
            self.processes[number].asked.append(~self._number(key))
        if now >= self._swept_at + _SWEEP_S:
            self._swept_at = now
            for process in self.processes:
                process.cache.l1.sweep()

    async def _ask(self, process: Process, key: str) -> None:
        least, asked = process.heard.get(key, 0), self._number(key)
        process.asked.append(asked)
        self.all.append(asked)
        if process.answer.peek(key) is None:
            l3_before = _outcome(process, "l3", "hit", "miss", "evicted", "unproven")
            answer = await process.answer(key)
            self.tiers[0].asked.append(asked)
            if _outcome(process, "l3", "hit", "miss", "evicted", "unproven") > l3_before:
                self.tiers[1].asked.append(asked)
            for _ in range(4):  # what is stored behind the caller's back
                await asyncio.sleep(0)
        else:
            answer = await process.answer(key)
        self.stale += answer.version < least

    def _number(self, key: str) -> int:
        return self.keys.setdefault(key, len(self.keys))


def _outcome(process: Process, tier: str, *outcomes: str) -> int:
    assert process.cache.tiers is not None
    counted = process.cache.tiers.outcomes()[tier]
    return sum(counted.get(outcome, 0) for outcome in outcomes)


async def replay(config: ReplayConfig, steps: Iterable[Step]) -> dict[str, Any]:
    """Hit rates of each tier and their bounds, loads saved, stale answers, memory."""
    gc.collect()
    rss_before = rss_bytes(os.getpid())
    fleet = Fleet(config)
    await fleet.play(steps)
    gc.collect()
    rss = rss_bytes(os.getpid()) - rss_before
    found = _figures(config, fleet) | {"rss_growth_bytes": rss}
    for process in fleet.processes:
        await process.cache.close()
    return found


def _figures(config: ReplayConfig, fleet: Fleet) -> dict[str, Any]:
    asked = cache_bound.asked(fleet.all)
    best = cache_bound.best_hits
    l1_hits = sum(process.cache.stats().hits for process in fleet.processes)
    rates = {"l1": l1_hits / asked}
    bounds = {"l1": _l1_bound(fleet, config.l1_bytes)}
    holds = sum(_holds(p.cache.l1.bytes, len(p.cache.l1), config.l1_bytes) for p in fleet.processes)
    for tier in fleet.tiers:
        came = cache_bound.asked(tier.asked)
        capacity = _holds(tier.bytes, tier.entries, tier.bytes_max)
        holds += capacity
        rates[tier.name] = sum(_outcome(p, tier.name, "hit") for p in fleet.processes) / max(1, came)
        bounds[tier.name] = best(tier.asked, capacity) / max(1, came)
    rates["all"] = 1 - fleet.tables.loads / asked
    rates["bound"] = best(fleet.all, holds) / asked
    return {
        "stale_answers": fleet.stale,
        "answers_checked": asked,
        "keys": len(fleet.keys),
        "facts": len(fleet.all) - asked,
        "hit_rate": {name: rounded(rate) for name, rate in rates.items()},
        "hit_rate_bound": {name: rounded(rate) for name, rate in bounds.items()},
        "load_reduction": rounded(asked / max(1, fleet.tables.loads)),
        "load_reduction_bound": rounded(asked / max(1, asked - best(fleet.all, holds))),
        "l1_bytes_most": max(process.cache.l1.bytes for process in fleet.processes),
        "l2_bytes_most": fleet.tiers[0].bytes_most,
        "l3_bytes_most": fleet.tiers[1].bytes_most,
        "bytes_max": config.processes * config.l1_bytes + config.l2_bytes + config.l3_bytes,
    }


def _l1_bound(fleet: Fleet, bytes_max: int) -> float:
    """Of each process's own requests, with its own capacity."""
    hits = asked = 0
    for process in fleet.processes:
        l1 = process.cache.l1
        hits += cache_bound.best_hits(process.asked, _holds(l1.bytes, len(l1), bytes_max))
        asked += cache_bound.asked(process.asked)
    return hits / max(1, asked)


def _holds(held: int, entries: int, bytes_max: int) -> int:
    """How many entries of the size that is there fit."""
    return math.ceil(bytes_max / (held / entries)) if entries else 0
