"""``python -m coord.ops.bench.cache_worker JOB``: connections with a cache each, in a process of their own.

Those that read ask for the newest fact of one of many notes, drawn by Zipf's law, and write down what they had heard
when they asked; they begin when they hear of the note `GO`.  All write down when they had evicted what a notice names.
Says all of it when standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus.connection import NatsConfig
from coord.cache.config import CacheConfig
from coord.cache.functions import CachedFunction, CachedOptions
from coord.cache.loading import Loaded
from coord.client.config import ClientConfig
from coord.client.connect import Connecting, Coord, connect
from coord.ops.bench import process
from coord.ops.bench.measure import BenchError, rss_bytes
from coord.ops.bench.servers import unwatched
from coord.store.pool import Pool
from coord.store.snapshots import reading
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.cache_api import CacheStats
from coord.wire.records import StoredFact

TENANT: Final = "bench"
GO: Final = "go"
_GO: Final = f'"note:{GO}"'.encode()
_PATIENCE_S: Final = 60.0
_HELD: Final = 10
"""Notes that everybody holds from the beginning."""
_POOL_MAX: Final = 3
"""Connections to the database, of all the caches in the process."""
_QUESTIONS: Final = 60
"""Of a reader at one turn of the loop."""
_NEWEST: Final = """
    SELECT coalesce(max(seq), 0) FROM coord.event WHERE key = $1 AND tenant = 'bench' AND kind = 'note' AND id = $1
"""
_COUNT: Final = "SELECT count(*) FROM coord.event WHERE key = $1 AND tenant = 'bench' AND kind = 'note' AND id = $1"


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """One process's part."""

    nats_url: str
    database_url: str
    first: int
    """Number of its first connection;"""
    connections: int
    """how many it has,"""
    readers: int
    """and how many of those ask."""
    notes: int
    zipf: float
    """A note's share falls with its rank to this power."""
    pause_s: float
    """Of a reader after each sixty questions: a fleet's agents do something else besides."""
    moved: bool = False
    """Whether facts move answers on; then each says how many there are, too."""
    l2: bool = False
    """Whether processes share what they load."""


class Newest(msgspec.Struct, frozen=True):
    """An answer about a note."""

    seq: int
    """Of its newest fact."""
    count: int = 0
    """How many there are, where facts move answers on."""


def _add(newest: Newest, fact: StoredFact) -> Newest:
    return Newest(fact.seq, newest.count + 1)


class Heard(msgspec.Struct):
    """One notice in one process; times are the wall clock's, which the database's commits have too."""

    body: str
    connections: int
    first_at: float
    """When the first connection had evicted what it names,"""
    last_at: float
    """and when the last one had."""


class Answered(msgspec.Struct, frozen=True):
    """What was answered, and how often."""

    note: str
    answer: int
    heard_to: int
    """Up to where a notice had told of that note when it was asked for."""
    times: int


class Told(msgspec.Struct, kw_only=True):
    """What a process found out."""

    heard: list[Heard]
    answers: list[Answered]
    at_last: dict[str, int]
    """The oldest of its last answers about each note."""
    failed: int
    """Questions without an answer."""
    lookups: int
    hits: int
    loads: int
    dropped: dict[str, int]
    """Entries that left, by why, and"""
    refused: dict[str, int]
    """loads that were not kept, by why, and"""
    moved: dict[str, int]
    """what came of moving answers on, and"""
    shared: dict[str, int]
    """what came of asking the tier that processes share; since the process began."""
    counts: list[tuple[str, int, int]]
    """Note, newest sequence and number of facts of each answer that was, where they are moved on."""
    bytes_max: int
    """Held by its fullest cache."""
    rss_bytes: int
    """Of the whole process, and"""
    rss_growth_bytes: int
    """how much of it came after its caches were warm."""
    cpu_s: float


def names(count: int) -> list[str]:
    """The notes there are, the one asked for most first."""
    return [f"n{n}" for n in range(count)]


def shares(count: int, zipf: float) -> list[float]:
    """Cumulated, for `random.choices`."""
    return list(itertools.accumulate(1 / rank**zipf for rank in range(1, count + 1)))


class Listener:
    """One connection."""

    def __init__(
        self, client: Coord, pool: Pool, heard: dict[bytes, Heard], *, moved: bool = False, l2: bool = False
    ) -> None:
        self.client = client
        self.counts: set[tuple[str, int, int]] = set()
        self._moved = moved
        self.answers: Counter[tuple[str, int, int]] = Counter()
        self._known: dict[str, int] = {}
        self._hear, self._heard = client.cache.hear, heard
        self.reads = False
        self.go = asyncio.Event()
        self.failed = 0
        self.at_last: dict[str, int] = {}
        client.cache.hear = self._listen  # type: ignore[method-assign]  # the bench listens in

        options: CachedOptions = {"tags": ["note:{id}"]}
        if moved:
            options["moved_by"] = _add
        if l2:
            options["shared"] = Newest
            options["version"] = 1 + moved

        @client.cached("newest:{id}", **options)
        async def newest(id: str) -> Loaded:  # noqa: A002
            async with reading(pool) as seen:
                count = await seen.conn.fetchval(_COUNT, id) if moved else 0
                return Loaded(Newest(await seen.conn.fetchval(_NEWEST, id), count), seen.marks)

        self.newest: CachedFunction[Newest] = newest

    def _listen(self, body: bytes) -> None:
        self._hear(body)
        now = time.time()
        # The same bytes for all: taken apart once, when it is over.
        heard = self._heard.get(body)
        if heard is None:
            self._heard[bytes(body)] = Heard("", 1, now, now)
        else:
            heard.connections += 1
            heard.last_at = now
        if self.reads:
            self._remember(body)
            if _GO in body:
                self.go.set()

    def _remember(self, body: bytes) -> None:
        notice = notices.decode(body)
        if notice.stream == subjects.EVENTS:
            for tag in notice.tags or ():
                kind, _, id_ = tag.partition(":")
                if kind == "note":
                    self._known[id_] = notice.to

    async def read(self, job: Listening, seed: int, over: asyncio.Event) -> None:
        """Ask for one note after the other."""
        rng, known, answers = random.Random(seed), self._known, self.answers
        notes, cumulated = names(job.notes), shares(job.notes, job.zipf)
        await self.go.wait()
        while not over.is_set():
            for id_ in rng.choices(notes, cum_weights=cumulated, k=_QUESTIONS):
                least = known.get(id_, 0)
                try:
                    newest = await self.newest(id_)
                except errors.CoordError:  # what it asks may be away; no answer is no old one
                    self.failed += 1
                    continue
                answers[id_, newest.seq, least] += 1
                if self._moved:
                    self.counts.add((id_, newest.seq, newest.count))
            await asyncio.sleep(job.pause_s)
        for id_ in notes:
            self.at_last[id_] = (await self.newest(id_)).seq


async def listen(job: Listening, over: asyncio.Event) -> None:
    """Do the job until told that it is over."""
    heard: dict[bytes, Heard] = {}
    async with contextlib.AsyncExitStack() as stack:
        database = msgspec.structs.replace(unwatched(job.database_url), pool_min=1, pool_max=_POOL_MAX)
        pool = Pool(database, metrics=Metrics(CollectorRegistry()))
        await pool.open()
        stack.push_async_callback(pool.close)
        listeners = [
            Listener(await stack.enter_async_context(_client(job, n)), pool, heard, moved=job.moved, l2=job.l2)
            for n in range(job.first, job.first + job.connections)
        ]
        await _warm(job, listeners)
        gc.collect()
        gc.freeze()
        before = [listener.client.cache.stats() for listener in listeners]
        began_cpu, began_rss = time.process_time(), rss_bytes(os.getpid())
        process.say({"ready": True})
        async with asyncio.TaskGroup() as group:
            for seed, listener in enumerate(listeners[: job.readers], job.first):
                group.create_task(listener.read(job, seed, over))
            await over.wait()
            for listener in listeners:
                listener.go.set()
        after = [listener.client.cache.stats() for listener in listeners]
        told = _told(heard, listeners, before, after)
        told.cpu_s = time.process_time() - began_cpu
        told.rss_growth_bytes = told.rss_bytes - began_rss
    process.say(msgspec.structs.asdict(told))


def _client(job: Listening, number: int) -> Connecting:
    nats, cache = NatsConfig(urls=(job.nats_url,)), CacheConfig(l2=job.l2)
    config = ClientConfig(nats=nats, tenant=TENANT, agent=f"reader-{number}", cache=cache)
    return connect(config, metrics=Metrics(CollectorRegistry()))


async def _warm(job: Listening, listeners: list[Listener]) -> None:
    """Until every partition is heard of, and those who will ask have all there is."""
    notes = names(job.notes)
    await asyncio.gather(*[listener.newest(notes[0]) for listener in listeners])
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while not all(at.client.cache.evictions.heard == 2 * limits.PARTITIONS for at in listeners):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise BenchError("notices do not arrive") from None
    for number, listener in enumerate(listeners):
        listener.reads = number < job.readers
        for id_ in notes if listener.reads else notes[:_HELD]:
            await listener.newest(id_)


def _told(
    heard: dict[bytes, Heard], listeners: list[Listener], before: list[CacheStats], after: list[CacheStats]
) -> Told:
    for body, one in heard.items():
        one.body = body.decode()
    answers: Counter[tuple[str, int, int]] = Counter()
    for listener in listeners:
        answers.update(listener.answers)
    hits, misses, loads = (
        sum(getattr(b, what) - getattr(a, what) for a, b in zip(before, after, strict=True))
        for what in ("hits", "misses", "loads")
    )
    at_last = [listener.at_last for listener in listeners if listener.at_last]
    return Told(
        heard=list(heard.values()),
        answers=[Answered(*said, times) for said, times in answers.items()],
        at_last={id_: min(one[id_] for one in at_last) for id_ in at_last[0]} if at_last else {},
        failed=sum(listener.failed for listener in listeners),
        lookups=hits + misses,
        hits=hits,
        loads=loads,
        dropped=_added(stats.dropped for stats in after),
        refused=_added(stats.refused for stats in after),
        moved=_added(stats.moved for stats in after),
        shared=_added(tiers.outcomes()["l2"] for at in listeners if (tiers := at.client.cache.tiers) is not None),
        counts=sorted({one for listener in listeners for one in listener.counts}),
        bytes_max=max(s.bytes for s in after),
        rss_bytes=rss_bytes(os.getpid()),
        rss_growth_bytes=0,
        cpu_s=0.0,
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for one in counts:
        found.update(one)
    return dict(found)


if __name__ == "__main__":
    _job = msgspec.json.decode(sys.argv[1], type=Listening)
    sys.exit(process.run(functools.partial(listen, _job), patient=True))
