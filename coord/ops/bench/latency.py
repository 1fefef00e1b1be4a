"""Figures of latency: from the moment a fact should be published until somebody has it.

latency_ms    publish → visible to a SELECT, at a fixed rate of facts.  Open loop: fact i is due
              at start + i / rate whatever became of those before it, and its latency begins
              there; a publisher that falls behind pays for it.  The end is the row's commit
              (pg_xact_commit_timestamp): a snapshot taken later sees it, and there is one for
              every row.  All clocks are this machine's.
  seen_p50/99 the same for twenty facts a second that a second connection asks for with SELECT
              every millisecond until it gets them: later than the commit by the question's way
              and the pause, and the proof that the commit's time is not flattering
subscribe_ms  publish → handed out by `async for`, with as many subscribers connected as wanted,
              each with a connection of its own and following what is said under its own key; all
              of them live in one process.  Open loop as above.

The load goes on through several windows; each figure is the median of the windows' percentiles.
Publisher here; projector and query service in one process, subscribers in another; nats-server
and PostgreSQL: all on this machine's cores at the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import msgspec

from coord.client.connect import Coord
from coord.ops.bench import workload
from coord.ops.bench.author import author
from coord.ops.bench.measure import BenchError, Figures, percentiles
from coord.ops.bench.workers import Job, Worker
from coord.store.config import DatabaseConfig
from coord.wire.envelope import Fact

_MARKERS_PER_S: Final = 20
_ASK_EVERY_S: Final = 0.001
_PATIENCE_S: Final = 120.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """An open loop, in windows that follow each other without a pause."""

    facts_per_s: float
    seconds: float
    """Of one window."""
    windows: int = 1

    @property
    def window(self) -> int:
        """Facts of one window."""
        return max(1, int(self.facts_per_s * self.seconds))

    @property
    def count(self) -> int:
        """Facts in all."""
        return self.window * self.windows

    def split(self, began: datetime, found: Iterable[tuple[datetime, float]]) -> list[list[float]]:
        """Latencies by window, given when each fact was due."""
        windows: list[list[float]] = [[] for _ in range(self.windows)]
        width_s = self.window / self.facts_per_s
        for due, latency_ms in found:
            # Times of facts have microseconds: the first of a window may seem due just before it.
            number = int(((due - began).total_seconds() + 1e-5) / width_s)
            windows[min(max(number, 0), self.windows - 1)].append(latency_ms)
        return windows


async def latency(
    nats_url: str,
    database: DatabaseConfig,
    visible: Load,
    heard: Load,
    warm_up_s: float,
    subscribers: int,
    say: Callable[[str], None],
) -> dict[str, Figures]:
    """The figures of latency, each window's percentiles.

    What is published in the first `warm_up_s` is not counted: chunks are made, partitions
    pinned, plans cached.
    """
    service = Job(role="service", nats_url=nats_url, database_url=database.url)
    async with Worker(service), author(nats_url) as coord:
        say(f"  {visible.facts_per_s:,.0f} facts/s for {visible.windows} × {visible.seconds:g} s → SELECT")
        data = workload.bodies()
        warm_up = Load(facts_per_s=visible.facts_per_s, seconds=warm_up_s)
        await _publish(coord, warm_up, lambda i, due: _fact(i, due, data))
        select = await _until_visible(coord, database, visible)
        _say_windows(select, say)
        say(f"  {heard.facts_per_s:,.0f} facts/s for {heard.windows} × {heard.seconds:g} s → {subscribers} subscribers")
        subscribe = await _until_heard(coord, nats_url, heard, subscribers)
        _say_windows(subscribe, say)
    return {"latency_ms": select, "subscribe_ms": subscribe}


def _say_windows(found: Figures, say: Callable[[str], None]) -> None:
    for number, (p50, p99) in enumerate(zip(found["p50"], found["p99"], strict=True), 1):
        say(f"    {number}/{len(found['p50'])} p50 {p50:>6.1f} ms   p99 {p99:>6.1f} ms")


# --- the open loop -------------------------------------------------------------------------


async def _publish(coord: Coord, load: Load, make: Callable[[int, datetime], Fact]) -> datetime:
    """Publish `make(i, due)` when it is due; returns when the first was due.

    Raises `BenchError` when something was not stored.
    """
    began, started = datetime.now(UTC), time.perf_counter()
    step = 1 / load.facts_per_s
    for i in range(load.count):
        ahead = started + i * step - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        await coord.emit(make(i, began + timedelta(seconds=i * step)))
    await coord.flush()
    return began


# --- until a SELECT sees it ----------------------------------------------------------------


async def _until_visible(coord: Coord, database: DatabaseConfig, load: Load) -> Figures:
    data = workload.bodies()
    every = max(1, int(load.facts_per_s / _MARKERS_PER_S))
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(database.url)
    try:
        watcher = _Watcher(conn)

        def make(i: int, due: datetime) -> Fact:
            if i % every:
                return _fact(i, due, data)
            watcher.ask(f"marker-{i}", due)
            return Fact(kind="file", id=f"marker-{i}", event="analysed", data=data[i % len(data)], occurred_at=due)

        watching = asyncio.create_task(watcher.run())
        try:
            began = await _publish(coord, load, make)
            await watcher.idle()
        finally:
            watching.cancel()
            await asyncio.wait({watching})  # the connection is free only then
        committed = await _committed(conn, began, load.count)
    finally:
        await conn.close()
    seen = percentiles(load.split(began, watcher.latencies_ms))
    return percentiles(load.split(began, committed)) | {"seen_p50": seen["p50"], "seen_p99": seen["p99"]}


def _fact(i: int, due: datetime, data: list[dict[str, Any]]) -> Fact:
    return Fact(kind="file", id=f"f{i % 5_000}", event="analysed", data=data[i % len(data)], occurred_at=due)


async def _committed(
    conn: asyncpg.Connection[asyncpg.Record], began: datetime, count: int
) -> list[tuple[datetime, float]]:
    """When each fact was due, and its milliseconds from there to its commit."""
    query = """
        SELECT
          e.occurred_at AS due,
          (extract(epoch FROM pg_xact_commit_timestamp(e.xmin) - e.occurred_at) * 1000)::float8 AS ms
        FROM coord.event AS e WHERE e.tenant = $1 AND e.occurred_at >= $2
    """
    found: list[tuple[datetime, float]] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while len(found) < count:
                found = [(row["due"], row["ms"]) for row in await conn.fetch(query, workload.TENANT, began)]
                await asyncio.sleep(0.05)
    if len(found) != count:
        raise BenchError("not every fact became a row once", facts=count, rows=len(found))
    return found


class _Watcher:
    """Asks for single facts with SELECT until it gets them."""

    def __init__(self, conn: asyncpg.Connection[asyncpg.Record]) -> None:
        self._conn = conn
        self._asked: dict[str, datetime] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.latencies_ms: list[tuple[datetime, float]] = []
        """When each was due, and how long it took."""

    def ask(self, key: str, due: datetime) -> None:
        """From now on, ask for the fact of this key."""
        self._asked[key] = due
        self._idle.clear()
        self._wake.set()

    async def idle(self) -> None:
        """Return when all were seen."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._idle.wait()
        except TimeoutError:
            raise BenchError("facts did not become visible", missing=len(self._asked)) from None

    async def run(self) -> None:
        """Ask until cancelled."""
        question = await self._conn.prepare(
            "SELECT DISTINCT key FROM coord.event WHERE tenant = $1 AND key = ANY($2::text[]) AND stored_at >= $3"
        )
        while True:
            self._wake.clear()
            if not self._asked:
                self._idle.set()
                await self._wake.wait()
            oldest = min(self._asked.values()) - timedelta(seconds=1)
            seen = await question.fetch(workload.TENANT, list(self._asked), oldest)
            now = datetime.now(UTC)
            for row in seen:
                due = self._asked.pop(row["key"])
                self.latencies_ms.append((due, (now - due).total_seconds() * 1000))
            await asyncio.sleep(_ASK_EVERY_S)


# --- until a subscriber has it -------------------------------------------------------------


async def _until_heard(coord: Coord, nats_url: str, load: Load, subscribers: int) -> Figures:
    data = workload.bodies()

    def make(i: int, due: datetime) -> Fact:
        addressed = f"k{i % subscribers}"
        return Fact(
            kind="file", id=f"f{i % 5_000}", key=addressed, event="analysed", data=data[i % len(data)], occurred_at=due
        )

    job = Job(role="subscribers", nats_url=nats_url, subscribers=subscribers, expected=load.count)
    async with Worker(job) as worker:
        began = await _publish(coord, load, make)
        found = await worker.result(_PATIENCE_S)
    heard: list[tuple[float, float]] = found["heard"]
    if len(heard) != load.count:
        raise BenchError("not every fact was heard once", facts=load.count, heard=len(heard))
    return percentiles(load.split(began, ((datetime.fromtimestamp(due, UTC), ms) for due, ms in heard)))
