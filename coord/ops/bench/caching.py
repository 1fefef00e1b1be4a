"""``coord bench cache``: what a hit costs beside others, and whether anything stale is ever served.

l1     CPU of a hit, of this process alone: cachebox's own get, `peek`, an awaited `get`, a call of a cached function;
       aiocache's SimpleMemoryCache as it comes and without its timeout.  Interleaved rounds over a thousand keys, the
       loop's own cost subtracted; a figure is the best round's, which others disturbed least.
fleet  connections with a cache each ask for the newest fact of one of many notes, drawn by Zipf's law, while facts
       about them are published and projected by a process apart.  Every answer is held against what its own connection
       had heard when it was asked for: older than that is stale.  And from a fact's commit to the last connection that
       has evicted what it touches.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import aiocache
import asyncpg
import msgspec
from cachebox import LRUCache
from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus.connection import NatsConfig
from coord.cache.functions import CachedFunction, Functions
from coord.cache.loading import Cache, Loaded
from coord.cache.memory import MemoryCache
from coord.client.connect import Connecting, Coord, connect
from coord.core.eviction import Watermark
from coord.ops.bench import machine, servers
from coord.ops.bench.measure import BenchError, percentiles, rounded
from coord.ops.bench.workers import Job, Worker
from coord.ops.devstack.stack import DevStackConfig
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.store.snapshots import reading
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.envelope import Fact

FORMAT: Final = 1
Part = Literal["l1", "fleet"]
PARTS: Final[tuple[Part, ...]] = ("l1", "fleet")

_TENANT: Final = "bench"
_KEYS: Final = 1_000
"""Of the hits that are timed."""
_PATIENCE_S: Final = 60.0
_WARM: Final = 8 * limits.PARTITIONS
_PAUSE_S: Final = 0.01
"""Of a reader, after each sixty questions: a fleet's agents do something else besides."""
_NEWEST: Final = """
    SELECT coalesce(max(seq), 0) FROM coord.event WHERE key = $1 AND tenant = 'bench' AND kind = 'note' AND id = $1
"""
_COMMITS: Final = """
    SELECT seq, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at, id
    FROM coord.event WHERE tenant = 'bench' AND kind = 'note' ORDER BY seq
"""


class CachingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, and how much of it."""

    parts: tuple[Part, ...] = PARTS
    rounds: int = 5
    hits: int = 200_000
    """Of each sort in a round; a tenth of those of aiocache."""
    connections: int = 100
    """That hear of commits;"""
    readers: int = 10
    """of which so many ask."""
    notes: int = 200
    zipf: float = 1.1
    """A note's share falls with its rank to this power."""
    facts_per_s: float = 50.0
    seconds: float = 20.0
    database: DevStackConfig

    def scaled(self, scale: float) -> CachingConfig:
        """Counts and durations times `scale`; 1.0 is the whole."""
        return msgspec.structs.replace(
            self,
            rounds=max(1, round(self.rounds * min(1.0, scale))),
            hits=max(2_000, int(self.hits * scale)),
            connections=max(2, int(self.connections * scale)),
            readers=max(2, int(self.readers * scale)),
            notes=max(20, int(self.notes * scale)),
            seconds=max(2.0, self.seconds * scale),
        )


async def cache(config: CachingConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the report."""
    circumstances = machine.Circumstances()
    figures: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if "l1" in config.parts:
        say("l1")
        figures |= await hits(config, say)
    if "fleet" in config.parts:
        async with servers.database(config.database, say) as database, servers.broker() as nats:
            say("fleet")
            more = {"versions": await servers.versions(nats, database.config), "edition": database.edition}
            figures |= await fleet(config, nats.url, database.config, say)
    return circumstances.report("cache", FORMAT, settings=servers.settings(config), figures=figures, **more)


# --- l1 --------------------------------------------------------------------------------------


async def hits(config: CachingConfig, say: Callable[[str], None]) -> dict[str, float]:
    """Nanoseconds of CPU a hit, and what coord's are to others'."""
    keys = [f"agent-{n}" for n in range(_KEYS)]
    bare: LRUCache[str, str] = LRUCache(0)
    own = MemoryCache()
    as_it_comes, unhurried = aiocache.SimpleMemoryCache(), aiocache.SimpleMemoryCache(timeout=None)
    cached = Functions(Cache(metrics=Metrics(CollectorRegistry()))).cached

    @cached("agent:{id}")
    async def agent(id: str) -> str:  # noqa: A002
        return id

    for key in keys:
        bare[key] = key
        own.keep(key, key, ttl_s=600.0)
        await agent(key)
        for other in (as_it_comes, unhurried):
            await other.set(key, key)
    plain: dict[str, Callable[[str], Any]] = {"cachebox": bare.get, "peek": own.peek}
    awaited: dict[str, tuple[Callable[[str], Awaitable[Any]], int]] = {
        "get": (own.get, 1),
        "call": (agent, 1),
        "aiocache": (unhurried.get, 10),
        "aiocache_as_it_comes": (as_it_comes.get, 40),
    }
    best: dict[str, float] = {}
    for _ in range(config.rounds):
        for name, ask in plain.items():
            _least(best, name, _timed(ask, keys, config.hits))
        for name, (get, less) in awaited.items():
            _least(best, name, await _timed_awaits(get, keys, config.hits // less))
    for name, ns in best.items():
        say(f"  {name:<22}{ns:>9.0f} ns a hit")
    ratios = {
        "l1_hit_ratio_to_cachebox": best["peek"] / best["cachebox"],
        "l1_get_ratio_to_cachebox": best["get"] / best["cachebox"],
        "l1_call_ratio_to_cachebox": best["call"] / best["cachebox"],
        "l1_speedup_over_aiocache": best["aiocache"] / best["get"],
        "l1_speedup_over_aiocache_as_it_comes": best["aiocache_as_it_comes"] / best["get"],
    }
    return {name: rounded(value) for name, value in ratios.items()} | {
        f"hit_ns_{name}": round(ns, 1) for name, ns in best.items()
    }


def _least(best: dict[str, float], name: str, ns: float) -> None:
    best[name] = min(best.get(name, ns), ns)


def _timed(ask: Callable[[str], Any], keys: list[str], count: int) -> float:
    """Nanoseconds of CPU a call, without the loop's own."""
    turns = range(max(1, count // len(keys)))
    began = time.process_time_ns()
    for _ in turns:
        for _key in keys:
            pass
    empty_ns = time.process_time_ns() - began
    began = time.process_time_ns()
    for _ in turns:
        for key in keys:
            ask(key)
    return (time.process_time_ns() - began - empty_ns) / (len(turns) * len(keys))


async def _timed_awaits(get: Callable[[str], Awaitable[Any]], keys: list[str], count: int) -> float:
    """The same, awaited; the loop's own cost, a hundredth, is not subtracted."""
    turns = range(max(1, count // len(keys)))
    began = time.process_time_ns()
    for _ in turns:
        for key in keys:
            await get(key)
    return (time.process_time_ns() - began) / (len(turns) * len(keys))


# --- a fleet ---------------------------------------------------------------------------------


class Reader:
    """One connection: it asks, and writes down what it had heard when it did."""

    def __init__(self, client: Coord, pool: Pool, heard: dict[tuple[int, int], list[float]]) -> None:
        self.client = client
        self.answers: dict[tuple[str, int, int], int] = {}
        """(note, answer, up to where a notice had told of it when it was asked for) → how often."""
        self._known: dict[str, int] = {}
        cache, hear = client.cache, client.cache.hear

        def listen(body: bytes) -> None:
            hear(body)
            now = time.time()
            notice = notices.decode(body)
            if notice.stream == subjects.EVENTS:
                heard.setdefault((notice.partition, notice.to), []).append(now)
                for tag in notice.tags or ():
                    kind, _, id_ = tag.partition(":")
                    if kind == "note":
                        self._known[id_] = notice.to

        cache.hear = listen  # type: ignore[method-assign]  # the bench listens in

        @client.cached("newest:{id}", tags=["note:{id}"])
        async def newest(id: str) -> Loaded:  # noqa: A002
            async with reading(pool) as seen:
                return Loaded(await seen.conn.fetchval(_NEWEST, id), seen.marks)

        self.newest: CachedFunction[int] = newest

    async def read(self, notes: list[str], shares: list[float], seed: int, goes_on: Callable[[], bool]) -> None:
        """Ask for one note after the other, sixty at a turn of the loop."""
        rng, known, answers = random.Random(seed), self._known, self.answers
        while goes_on():
            for id_ in rng.choices(notes, cum_weights=shares, k=60):
                least = known.get(id_, 0)
                said = (id_, await self.newest(id_), least)
                answers[said] = answers.get(said, 0) + 1
            await asyncio.sleep(_PAUSE_S)


async def fleet(
    config: CachingConfig, nats_url: str, database: DatabaseConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """Hit rate, loads saved, stale answers, and milliseconds from commits to evictions."""
    heard: dict[tuple[int, int], list[float]] = {}
    """(partition, where a notice ended) → when each connection had evicted."""
    notes = [f"n{n}" for n in range(config.notes)]
    shares = list(itertools.accumulate(1 / rank**config.zipf for rank in range(1, config.notes + 1)))
    pool = Pool(database, metrics=Metrics(CollectorRegistry()))
    async with (
        Worker(Job(role="service", nats_url=nats_url, database_url=database.url)),
        contextlib.AsyncExitStack() as stack,
    ):
        await pool.open()
        stack.push_async_callback(pool.close)
        readers = [
            Reader(await stack.enter_async_context(_client(nats_url, n)), pool, heard)
            for n in range(config.connections)
        ]
        await _warm(readers, notes, config.readers)
        stats_before = [reader.client.cache.stats() for reader in readers]
        asking = True
        async with asyncio.TaskGroup() as group:
            for seed, reader in enumerate(readers[: config.readers]):
                group.create_task(reader.read(notes, shares, seed, lambda: asking))
            last = await _publish(readers[0].client, config, notes, shares)
            asking = False
        await _until(lambda: all(r.client.cache.evictions.is_reached(last) for r in readers))
        async with pool.acquire() as conn:
            commits = await conn.fetch(_COMMITS)
        stats = [reader.client.cache.stats() for reader in readers]
    answers = sum(sum(reader.answers.values()) for reader in readers)
    loads, hits, misses = (
        sum(getattr(after, what) - getattr(before, what) for before, after in zip(stats_before, stats, strict=True))
        for what in ("loads", "hits", "misses")
    )
    stale = _stale(readers, commits)
    took_ms = _evictions(commits, heard, config.connections)
    say(f"  {answers:,} answers, {loads:,} loads, {stale} stale; {len(took_ms):,} commits heard by all")
    return {
        "stale_answers": stale,
        "answers_checked": answers,
        "hit_rate": {"l1": rounded(hits / max(1, hits + misses))},
        "load_reduction": rounded(answers / max(1, loads)),
        "eviction_ms": {name: rounded(values[0]) for name, values in percentiles([took_ms]).items()},
        "l1_bytes_max": max(s.bytes for s in stats),
    }


async def _warm(readers: list[Reader], notes: list[str], asking: int) -> None:
    """Until every partition is projected and heard of, and those who will ask have all there is."""
    await asyncio.gather(*[reader.newest(notes[0]) for reader in readers])
    await _until(lambda: all(r.client.cache.evictions.heard == 2 * limits.PARTITIONS for r in readers))
    publish = readers[0].client.publish
    acks = [(id_, await publish(Fact(kind="warm", id=id_, event="said"))) for id_ in map(str, range(_WARM))]
    marks = [Watermark(id_, ack.seq) for id_, ack in acks]
    await _until(lambda: all(r.client.cache.evictions.is_reached(mark) for r in readers for mark in marks))
    for reader in readers[:asking]:
        for id_ in notes:
            await reader.newest(id_)


def _client(nats_url: str, number: int) -> Connecting:
    config = NatsConfig(urls=(nats_url,))
    return connect(config, tenant=_TENANT, agent=f"reader-{number}", metrics=Metrics(CollectorRegistry()))


async def _publish(client: Coord, config: CachingConfig, notes: list[str], shares: list[float]) -> Watermark:
    """State facts about notes at a rate; where the last one is in the log."""
    rng, loop = random.Random(6), asyncio.get_running_loop()
    began = loop.time()
    last = Watermark(notes[0], 0)
    for n in range(max(1, int(config.facts_per_s * config.seconds))):
        await asyncio.sleep(max(0.0, began + n / config.facts_per_s - loop.time()))
        (id_,) = rng.choices(notes, cum_weights=shares)
        ack = await client.publish(Fact(kind="note", id=id_, event="said", data={"n": n}))
        last = Watermark(id_, ack.seq)
    return last


def _stale(readers: list[Reader], commits: list[asyncpg.Record]) -> int:
    """Answers older than what their connection had heard of when it asked."""
    by_note: dict[str, list[int]] = {}
    for row in commits:
        by_note.setdefault(row["id"], []).append(row["seq"])
    stale = 0
    for (id_, answer, heard_to), times in ((said, n) for reader in readers for said, n in reader.answers.items()):
        seqs = by_note.get(id_, [])
        before = bisect.bisect_right(seqs, heard_to)
        if before and answer < seqs[before - 1]:
            stale += times
    return stale


def _evictions(
    commits: list[asyncpg.Record], heard: dict[tuple[int, int], list[float]], connections: int
) -> list[float]:
    """Milliseconds from each fact's commit until the last connection had evicted what it touches."""
    ends: dict[int, list[int]] = {}
    for partition, to in sorted(heard):
        ends.setdefault(partition, []).append(to)
    took_ms = []
    for row in commits:
        partition = subjects.partition(row["id"])
        at = bisect.bisect_left(ends.get(partition, []), row["seq"])
        if at < len(ends.get(partition, [])):
            times = heard[partition, ends[partition][at]]
            if len(times) >= connections:
                took_ms.append((max(times) - row["at"]) * 1000)
    return took_ms


async def _until(so: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while not so():  # noqa: ASYNC110 - what it looks at is spread over a hundred connections
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise BenchError("notices do not arrive") from None
