"""Connections with caches in processes of their own, while facts about what they hold are committed.

Every answer is held against what its own connection had heard when it was asked for: older than that is stale.  And
from each fact's commit, by the database's clock, to this process's hearing of it, which does nothing else, and to the
last connection that has evicted what it touches.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import asyncpg
import msgspec
from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import Coord, connect
from coord.ops.bench.cache_worker import GO, TENANT, Answered, Listening, Told, names, shares
from coord.ops.bench.measure import BenchError, percentiles, rounded
from coord.ops.bench.workers import Job, Worker
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.envelope import Fact

_PATIENCE_S: Final = 60.0
_TELL_S: Final = 60.0
_LATE_S: Final = 0.5
"""What is heard later than so long after the last notice is not heard at all."""
_WARM: Final = 8 * limits.PARTITIONS
COMMITS: Final = """
    SELECT seq, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at, id
    FROM coord.event WHERE tenant = 'bench' AND kind = 'note' ORDER BY seq
"""


class FleetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many listen, and to what."""

    processes: int = 4
    connections: int = 100
    """That hear of commits, in all processes together;"""
    readers: int = 8
    """of which so many ask."""
    notes: int = 200
    zipf: float = 1.1
    facts_per_s: float = 50.0
    """While nobody asks, and"""
    read_facts_per_s: float = 25.0
    """while somebody does: each has all readers load once, and a reader that waits for loads asks little."""
    quiet_s: float = 10.0
    """How long nobody asks, and then"""
    seconds: float = 30.0
    """how long those who ask do."""
    pause_s: float = 0.01
    """Of a reader after each sixty questions."""
    moved: int = 0
    """Processes in which facts move answers on: the last ones."""
    l2: bool = False
    """Whether processes share what they load."""


class Watch:
    """One bare subscription: when each notice was here first, and up to where partitions were heard of."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self._reached: dict[int, int] = {}

    def hear(self, _subject: bytes, _reply: bytes, _headers: bytes, body: bytes) -> None:
        """Take a notice."""
        now = time.time()
        self.at.setdefault(body.decode(), now)
        notice = notices.decode(body)
        if notice.stream == subjects.EVENTS:
            self._reached[notice.partition] = notice.to

    async def until(self, acks: dict[int, int]) -> None:
        """Until partitions are heard of up to these sequences."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while any(self._reached.get(p, -1) < seq for p, seq in acks.items()):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise BenchError("notices do not arrive") from None


async def fleet(
    config: FleetConfig, nats_url: str, database: DatabaseConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """Stale answers, loads saved, and milliseconds from commits to evictions."""
    watch = Watch()
    async with contextlib.AsyncExitStack() as stack:
        conn = await stack.enter_async_context(await Connection.open(NatsConfig(urls=(nats_url,)), name="bench-watch"))
        await conn.subscribe_bytes(subjects.notices(TENANT), watch.hear)
        # Together: caches that are there when a projector says for the first time who it is need not wait for the next.
        service = Worker(Job(role="service", nats_url=nats_url, database_url=database.url))
        _, *workers = await asyncio.gather(*[
            stack.enter_async_context(one)
            for one in (service, *(worker(job) for job in jobs(config, nats_url, database.url)))
        ])  # fmt: skip
        client = await stack.enter_async_context(
            connect(NatsConfig(urls=(nats_url,)), tenant=TENANT, agent="speaker", metrics=Metrics(CollectorRegistry()))
        )
        await watch.until(await _publish(client, "warm", [f"w{n}" for n in range(_WARM)], 0.0))
        for per_s, seconds in ((config.facts_per_s, config.quiet_s), (config.read_facts_per_s, config.seconds)):
            ids = _drawn(config, max(1, int(per_s * seconds)))
            await watch.until(await _publish(client, "note", ids, 1 / per_s))
            await watch.until(await _publish(client, "note", [GO], 0.0))
        await asyncio.sleep(_LATE_S)
        told = [msgspec.convert(found, Told) for found in await asyncio.gather(*[w.ended(_TELL_S) for w in workers])]
    db: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(database.url)
    try:
        commits = await db.fetch(COMMITS)
    finally:
        await db.close()
    return _figures(config, told, commits, watch, say)


def worker(job: Listening) -> Worker:
    """A process that listens."""
    return Worker(job, name="caches", module="coord.ops.bench.cache_worker")


def jobs(config: FleetConfig, nats_url: str, database_url: str) -> list[Listening]:
    """Connections and readers dealt out evenly."""
    processes, first = min(config.processes, config.connections), 0
    dealt = []
    for n in range(processes):
        connections, readers = (
            whole // processes + (n < whole % processes) for whole in (config.connections, config.readers)
        )
        job = Listening(
            nats_url=nats_url, database_url=database_url, first=first, connections=connections, readers=readers,
            notes=config.notes, zipf=config.zipf, pause_s=config.pause_s,
            moved=n >= processes - config.moved, l2=config.l2,
        )  # fmt: skip
        dealt.append(job)
        first += connections
    return dealt


def _drawn(config: FleetConfig, count: int) -> list[str]:
    rng = random.Random(6)
    return rng.choices(names(config.notes), cum_weights=shares(config.notes, config.zipf), k=count)


async def _publish(client: Coord, kind: str, ids: list[str], every_s: float) -> dict[int, int]:
    """State a fact about each, so far apart; the last sequence of each partition."""
    loop = asyncio.get_running_loop()
    began, last = loop.time(), dict[int, int]()
    for n, id_ in enumerate(ids):
        await asyncio.sleep(max(0.0, began + n * every_s - loop.time()))
        ack = await client.publish(Fact(kind=kind, id=id_, event="said", data={"n": n}))
        last[subjects.partition(id_)] = ack.seq
    return last


# --- what it says ----------------------------------------------------------------------------


def _figures(
    config: FleetConfig, told: list[Told], commits: list[asyncpg.Record], watch: Watch, say: Callable[[str], None]
) -> dict[str, Any]:
    checked = sum(answer.times for one in told for answer in one.answers)
    loads, hits, lookups = (sum(getattr(one, what) for one in told) for what in ("loads", "hits", "lookups"))
    stale = stale_answers((answer for one in told for answer in one.answers), commits) + len(left_behind(told, commits))
    went = next(row["seq"] for row in commits if row["id"] == GO)
    heard = evictions(commits, told, watch.at, config.connections)
    say(f"  {checked:,} answers, {loads:,} loads, {stale} stale; {len(heard):,}/{len(commits):,} commits heard by all")
    if failed := sum(one.failed for one in told):
        raise BenchError("questions were not answered", failed=failed)
    return {
        "stale_answers": stale,
        "answers_checked": checked,
        "hit_rate": {"l1": rounded(hits / max(1, lookups))},
        "load_reduction": rounded(checked / max(1, loads)),
        "eviction_ms": _percentiles(last for seq, _, last in heard if seq < went),
        "eviction_told_ms": _percentiles(first for seq, first, _ in heard if seq < went),
        "eviction_beside_readers_ms": _percentiles(last for seq, _, last in heard if seq > went),
        "eviction_told_beside_readers_ms": _percentiles(first for seq, first, _ in heard if seq > went),
        "evictions_unheard": len(commits) - len(heard),
        "dropped": dict(sum((Counter(one.dropped) for one in told), Counter[str]())),
        "refused": dict(sum((Counter(one.refused) for one in told), Counter[str]())),
        "l1_bytes_max": max(one.bytes_max for one in told),
        "rss_bytes": [one.rss_bytes for one in told],
        "rss_growth_bytes": [one.rss_growth_bytes for one in told],
        "cpu_s": rounded(sum(one.cpu_s for one in told)),
    }


def _percentiles(took_ms: Iterable[float]) -> dict[str, float]:
    return {name: rounded(values[0]) for name, values in percentiles([list(took_ms)]).items()}


def stale_answers(answers: Iterable[Answered], commits: list[asyncpg.Record]) -> int:
    """Answers older than what their connection had heard of when it asked."""
    by_note: dict[str, list[int]] = {}
    for row in commits:
        by_note.setdefault(row["id"], []).append(row["seq"])
    stale = 0
    for answered in answers:
        seqs = by_note.get(answered.note, [])
        before = bisect.bisect_right(seqs, answered.heard_to)
        if before and answered.answer < seqs[before - 1]:
            stale += answered.times
    return stale


def miscounted(told: Iterable[Told], commits: list[asyncpg.Record]) -> list[str]:
    """Notes of which an answer was that has one fact too many or too few up to its newest."""
    by_note: dict[str, list[int]] = {}
    for row in commits:
        by_note.setdefault(row["id"], []).append(row["seq"])
    counts = {one for each in told for one in each.counts}
    return sorted({note for note, seq, n in counts if n != bisect.bisect_right(by_note.get(note, []), seq)})


def left_behind(told: Iterable[Told], commits: list[asyncpg.Record]) -> list[str]:
    """Notes of which somebody's last answer, long after the last commit, is not the newest: its notice was lost."""
    newest = {row["id"]: row["seq"] for row in commits}
    return [note for one in told for note, answer in one.at_last.items() if answer < newest.get(note, 0)]


def evictions(
    commits: list[asyncpg.Record], told: list[Told], watched: dict[str, float], connections: int
) -> list[tuple[int, float, float]]:
    """Of each fact: sequence, milliseconds from its commit until it was heard of here, and until all had evicted."""
    heard: dict[tuple[int, int], tuple[int, float, float]] = {}
    for one in (one for process in told for one in process.heard):
        notice = notices.decode(one.body.encode())
        if notice.stream == subjects.EVENTS and one.body in watched:
            count, last, _ = heard.get((notice.partition, notice.to), (0, 0.0, 0.0))
            place = (count + one.connections, max(last, one.last_at), watched[one.body])
            heard[notice.partition, notice.to] = place
    ends: dict[int, list[int]] = {}
    for partition, to in sorted(heard):
        ends.setdefault(partition, []).append(to)
    took = []
    for row in commits:
        partition = subjects.partition(row["id"])
        at = bisect.bisect_left(ends.get(partition, []), row["seq"])
        if at < len(ends.get(partition, [])):
            count, last, first = heard[partition, ends[partition][at]]
            if count >= connections:
                took.append((row["seq"], (first - row["at"]) * 1000, (last - row["at"]) * 1000))
    return took
