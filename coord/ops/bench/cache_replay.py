"""A fleet's caches through a recording, in its time and nobody's: what each tier answers, and what could have been.

Real caches (`coord.cache.loading.Cache`), one a process, on a clock that goes from one step to the next; below them
tiers that drop what is oldest when they are full and are written again by `coord.core.aging`, as the broker's are.  The
database is a dictionary of versions.  Notices arrive some milliseconds after the commit, later in one process than in
another, and the facts themselves a little earlier, where they move answers on.  Every answer is held against the
database and against what its process had heard: an older one, or one with other facts than it had then, is stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import itertools
import math
import os
import random
import time
from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry

from coord import limits
from coord.cache.config import CacheConfig
from coord.cache.functions import CachedFunction, CachedOptions, Functions
from coord.cache.loading import Cache, Loaded
from coord.core.aging import Window
from coord.core.eviction import Place, Source
from coord.ops.bench import cache_bound
from coord.ops.bench.cache_traces import Step, kind_of
from coord.ops.bench.measure import rounded, rss_bytes
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice
from coord.wire.records import StoredFact

_LAG_S: Final = 0.002
"""From a commit until the first process hears of it, and between it and the next."""
_LIVE_S: Final = 0.001
"""The same of the fact itself."""
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

    said: tuple[int, ...]
    """The sequences of the facts about it."""
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


_BROKER: Final = (
    "NATS/1.0\r\nNats-Stream: EVENTS\r\nNats-Subject: {subject}\r\nNats-Sequence: {seq}\r\n"
    "Nats-Time-Stamp: 2026-01-01T00:00:00.123456Z\r\nNats-Last-Sequence: 0\r\n\r\n"
)
_BODY: Final = b'{"text": "%s"}' % (b"x" * 256)


class Committed(msgspec.Struct, frozen=True):
    """A fact about a key."""

    key: str
    notice: bytes
    live: tuple[bytes, bytes, bytes]
    """As the broker republishes it: subject, headers, body."""


def add(answer: Answer, fact: StoredFact) -> Answer:
    """What a message makes of a conversation."""
    return Answer((*answer.said, fact.seq), answer.text)


class Tables:
    """What was said about each key, and up to where each partition is committed."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[int, ...]] = {}
        self.marks: dict[Source, Place] = {}
        self.loads = 0
        self._seq = 0

    def commit(self, key: str) -> Committed:
        """A fact about `key`."""
        self._seq += 1
        seq = self._seq
        kind, _, number = key.partition("-")
        subject = subjects.FactSubject("bench", "author", key, kind, number or "0", "said")
        self.said[key] = (*self.said.get(key, ()), seq)
        source = (subjects.EVENTS, subject.partition)
        last = self.marks.get(source, (1, 0))[1]
        self.marks[source] = (1, seq)
        tags = sorted([f"{kind}:{number or 0}", f"key:{key}", f"kind:{kind}"])
        notice = Notice(
            stream=subjects.EVENTS, epoch=1, partition=subject.partition, session="s", from_=last, to=seq, tags=tags,
            facts=notices.said([(seq, 1, tuple(tags))], tags),
        )  # fmt: skip
        broker = _BROKER.format(subject=subject.stored, seq=seq)
        return Committed(key, notices.encode(notice), (subject.live.encode(), broker.encode(), _BODY))

    def read(self, key: str) -> Loaded:
        """One question to the database."""
        self.loads += 1
        text = random.Random(f"{key}/{self.loads}").randbytes(_TEXT_BYTES // 2).hex()
        return Loaded(Answer(self.said.get(key, ()), text), dict(self.marks))


class Process:
    """One process of the fleet: its cache, what it has heard, and what it was asked."""

    def __init__(
        self, number: int, config: ReplayConfig, tiers: tuple[ModelTier, ...], clock: Clock, db: Tables,
        moved: Collection[str],
    ) -> None:  # fmt: skip
        self.cache = Cache(
            CacheConfig(l1_bytes=config.l1_bytes), metrics=Metrics(CollectorRegistry()), rng=random.Random(number),
            monotonic=clock, wall=clock, tiers=tiers,
        )  # fmt: skip
        self.heard: dict[str, int] = {}
        """Key → how many facts it has heard of."""
        self.asked = array("l")
        self.cpu = Cpu()
        self._tables = db
        self._moved = moved
        self._functions = Functions(self.cache)
        self._answers: dict[str, CachedFunction[Answer]] = {}
        self.cache.connected()
        for stream in (subjects.EVENTS, subjects.TELEMETRY):
            for partition in range(limits.PARTITIONS):
                beat = Notice(stream=stream, epoch=1, partition=partition, session="s", from_=0, to=0, tags=[])
                self.cache.hear_beat(notices.encode(beat))
        for kind in moved:
            self.answer(f"{kind}-")

    def answer(self, key: str) -> CachedFunction[Answer]:
        """What answers questions about a thing of this kind."""
        kind = kind_of(key)
        found = self._answers.get(kind)
        if found is None:
            options: CachedOptions = {"tags": ["key:{key}"], "shared": Answer}
            if kind in self._moved:
                options |= {"moved_by": add, "hears": (kind,)}

            @self._functions.cached(f"{kind} {{key}}", **options)
            async def answer(key: str) -> Loaded:
                return self._tables.read(key)

            self._answers[kind] = found = answer
        return found

    def hear_fact(self, fact: Committed) -> None:
        """The fact itself, if it is of a kind that this process listens for."""
        if kind_of(fact.key) in self._moved:
            with self.cpu.of("hear_fact"):
                self.cache.hear_fact(*fact.live)

    def hear(self, fact: Committed) -> None:
        """A notice."""
        with self.cpu.of("hear_notice"):
            self.cache.hear(fact.notice)
        self.heard[fact.key] = self.heard.get(fact.key, 0) + 1

    def is_moved(self, key: str) -> bool:
        """Whether facts move answers about it on."""
        return kind_of(key) in self._moved


class Cpu:
    """CPU time of what is done, by what it is."""

    def __init__(self) -> None:
        self.spent: dict[str, tuple[int, float]] = {}
        """How often, and seconds."""

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Of what is done inside."""
        began = time.thread_time()
        yield
        self.add(what, time.thread_time() - began)

    def add(self, what: str, seconds: float) -> None:
        """So much more."""
        count, before = self.spent.get(what, (0, 0.0))
        self.spent[what] = (count + 1, before + seconds)


class Fleet:
    """All of them."""

    def __init__(self, config: ReplayConfig, moved: Collection[str] = ()) -> None:
        """`moved`: kinds of things whose answers facts move on."""
        self.clock = Clock()
        self.tables = Tables()
        self.tiers = (
            ModelTier("l2", config.l2_bytes, limits.CACHE_L2_TTL_S, self.clock),
            ModelTier("l3", config.l3_bytes, limits.CACHE_L3_TTL_S, self.clock),
        )
        self.processes = [
            Process(n, config, self.tiers, self.clock, self.tables, moved) for n in range(config.processes)
        ]  # fmt: skip
        self.stale = self.facts = 0
        self.all = array("l")
        self.keys: dict[str, int] = {}
        """Their numbers."""
        self._under_way: list[tuple[float, int, int, bool, Committed]] = []
        self._numbers = itertools.count()
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
        fact, now = self.tables.commit(key), self.clock.now
        for number, process in enumerate(self.processes):
            at = now + _LAG_S * (1 + number)
            heapq.heappush(self._under_way, (at - _LIVE_S, next(self._numbers), number, False, fact))
            heapq.heappush(self._under_way, (at, next(self._numbers), number, True, fact))
            if number == 0 and not process.is_moved(key):
                for events in (self.all, *(tier.asked for tier in self.tiers)):
                    events.append(~self._number(key))
        self.facts += 1

    def _deliver(self) -> None:
        now = self.clock.now
        while self._under_way and self._under_way[0][0] <= now:
            _, _, number, is_notice, fact = heapq.heappop(self._under_way)
            process = self.processes[number]
            if not is_notice:
                process.hear_fact(fact)
                continue
            process.hear(fact)
            if not process.is_moved(fact.key):
                process.asked.append(~self._number(fact.key))
        if now >= self._swept_at + _SWEEP_S:
            self._swept_at = now
            for process in self.processes:
                process.cache.l1.sweep()

    async def _ask(self, process: Process, key: str) -> None:
        least, asked = process.heard.get(key, 0), self._number(key)
        process.asked.append(asked)
        self.all.append(asked)
        function, loads = process.answer(key), self.tables.loads
        moved = process.cache.stats().moved.get("moved", 0)
        began = time.thread_time()
        answer = function.peek(key)
        if answer is None:
            l3_before = _outcome(process, "l3", "hit", "miss", "evicted", "unproven")
            answer = await function(key)
            self.tiers[0].asked.append(asked)
            if _outcome(process, "l3", "hit", "miss", "evicted", "unproven") > l3_before:
                self.tiers[1].asked.append(asked)
            for _ in range(4):  # what is stored behind the caller's back
                await asyncio.sleep(0)
        else:
            answer = await function(key)
        what = "move" if process.cache.stats().moved.get("moved", 0) > moved else "hit"
        process.cpu.add("load" if self.tables.loads > loads else what, time.thread_time() - began)
        here = len(answer.said)
        self.stale += here < least or answer.said != self.tables.said.get(key, ())[:here]

    def _number(self, key: str) -> int:
        return self.keys.setdefault(key, len(self.keys))


def _outcome(process: Process, tier: str, *outcomes: str) -> int:
    assert process.cache.tiers is not None
    counted = process.cache.tiers.outcomes()[tier]
    return sum(counted.get(outcome, 0) for outcome in outcomes)


async def replay(config: ReplayConfig, steps: Iterable[Step], moved: Collection[str] = ()) -> dict[str, Any]:
    """Hit rates of each tier and their bounds, loads saved, stale answers, memory.

    `moved`: kinds of things whose answers facts move on; the bounds are those of a cache that does that, too.
    """
    gc.collect()
    rss_before = rss_bytes(os.getpid())
    fleet = Fleet(config, moved)
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
        "facts": fleet.facts,
        "hit_rate": {name: rounded(rate) for name, rate in rates.items()},
        "hit_rate_bound": {name: rounded(rate) for name, rate in bounds.items()},
        "load_reduction": rounded(asked / max(1, fleet.tables.loads)),
        "load_reduction_bound": rounded(asked / max(1, asked - best(fleet.all, holds))),
        "moved": _summed(process.cache.stats().moved for process in fleet.processes),
        "cpu_us": _cpu_us(fleet),
        "l1_bytes_most": max(process.cache.l1.bytes for process in fleet.processes),
        "l2_bytes_most": fleet.tiers[0].bytes_most,
        "l3_bytes_most": fleet.tiers[1].bytes_most,
        "bytes_max": config.processes * config.l1_bytes + config.l2_bytes + config.l3_bytes,
    }


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            found[name] = found.get(name, 0) + count
    return found


def _cpu_us(fleet: Fleet) -> dict[str, float]:
    """CPU time of one of each, microseconds; of a load without the database's."""
    names = {name for process in fleet.processes for name in process.cpu.spent}
    found = {}
    for name in sorted(names):
        spent = [process.cpu.spent.get(name, (0, 0.0)) for process in fleet.processes]
        found[name] = rounded(1e6 * sum(s for _, s in spent) / max(1, sum(n for n, _ in spent)))
    return found


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
