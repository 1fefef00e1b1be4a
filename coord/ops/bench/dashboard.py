"""How long dashboards wait while facts come in: every question of the dashboard set, again and again.

A fleet's facts of the last hours, a hundred a second, are in the tables (`made`) and in the rollups.  Then, beside a
projector that is given `facts_per_s` in frames of the same fleet and the upkeep of the tables (a look every two
seconds, and rollups moved as facts come), each in a process of its own, the questions are asked in turn over one
connection, as Grafana does, and each answer is fetched.  p50 and p99 are over all answers of all questions: what a
panel waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Final

import msgspec

from coord.ops.bench import made, questions, workload
from coord.ops.bench.bare import BareLoop
from coord.ops.bench.measure import BenchError, percentile, rounded
from coord.ops.bench.workers import Job, Worker
from coord.store import queries
from coord.store.config import DatabaseConfig
from coord.store.pool import Connection, Pool
from coord.wire.envelope import Encoded

_PUBLISH_EVERY_S: Final = 0.05
_BEFORE_PER_S: Final = 100.0
"""So densely facts were stated before: with fewer a second rollups would have a row for each."""
_IDLE_SHARE: Final = 0.3
"""Of the time, in which nothing comes in: for comparison."""
_FOLLOW_S: Final = 8.0
"""Facts come in for so long before anything is asked: upkeep has to see that they come fast before rollups follow."""
_CAUGHT_UP_S: Final = 60.0
_LOOK_S: Final = 0.2


class DashboardConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the part does."""

    rows: int
    """Facts in the tables before it begins."""
    facts_per_s: float
    """Then come in, in frames of a hundred."""
    seconds: float
    """For so long questions are asked meanwhile."""


async def dashboard(
    nats_url: str, database: DatabaseConfig, config: DashboardConfig, say: Callable[[str], None]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The figures, and those of each question."""
    now = datetime.now(UTC)
    began = time.perf_counter()
    begin = now - timedelta(seconds=config.rows / _BEFORE_PER_S)
    shape = made.Shape(rows=config.rows, begin=begin, until=now, samples=config.rows // 5)
    rows = await made.fill(database.url, shape)
    say(f"  {rows:,} facts in the tables after {time.perf_counter() - began:.0f} s")
    await made.roll_up(database)
    say(f"  rolled up after {time.perf_counter() - began:.0f} s")
    async with Pool(msgspec.structs.replace(database, pool_min=1)) as pool, pool.acquire() as conn:
        # Of another log: the projector begins with its own.
        await conn.execute("DELETE FROM coord.checkpoint")
        there = await questions.what_is_there(conn)
        idle = await _ask(conn, there, config.seconds * _IDLE_SHARE)
        async with _ingest(nats_url, database, config, there["tenant"]) as incoming:
            await asyncio.sleep(min(_FOLLOW_S, config.seconds))
            busy = await _ask(conn, there, config.seconds)
            reached = incoming.per_s()
            await incoming.stop()
            await _caught_up(conn, rows + incoming.published)
    say(f"  {reached:,.0f} facts/s came in meanwhile")
    every = sorted(ms for asks in busy.values() for ms in asks)
    quiet = sorted(ms for asks in idle.values() for ms in asks)
    figures = {
        "p50": median(every),
        "p99": percentile(every, 0.99),
        "max": every[-1],
        "idle_p50": median(quiet),
        "idle_p99": percentile(quiet, 0.99),
        "facts_per_s": reached,
    }
    each = [
        {"name": name, "asks": len(asks), "p50_ms": rounded(median(asks)), "max_ms": rounded(max(asks))}
        for name, asks in sorted(busy.items(), key=lambda item: -max(item[1]))
    ]
    return figures, each


async def _ask(conn: Connection, there: dict[str, str], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each answer of each dashboard question; the first round is warm-up and not counted."""
    chosen = [q for q in queries.all_queries().values() if q.dashboard]
    found: dict[str, list[float]] = {q.name: [] for q in chosen}
    until = 0.0
    while not until or time.perf_counter() < until:
        for query in chosen:
            values = query.bind(questions.asked(query, there)).values()
            asked_at = time.perf_counter()
            await conn.fetch(query.for_asyncpg, *values)
            if until:
                found[query.name].append((time.perf_counter() - asked_at) * 1000)
        until = until or time.perf_counter() + seconds
    return {name: asks for name, asks in found.items() if asks}


class _Incoming:
    """Frames that are published at a rate, until told to stop."""

    def __init__(self, frames: Sequence[Encoded], facts_per_s: float) -> None:
        self._frames = frames
        self._every_s = workload.FRAME / facts_per_s
        self._began = 0.0
        self._sent = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def published(self) -> int:
        """Facts so far."""
        return self._sent * workload.FRAME

    def per_s(self) -> float:
        """Facts a second so far."""
        return self.published / (time.perf_counter() - self._began)

    def start(self, bare: BareLoop) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(bare))

    async def stop(self) -> None:
        """Publish no more; raises what stopped it before."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            done = await asyncio.gather(task, return_exceptions=True)
            if isinstance(done[0], Exception):
                raise done[0]

    async def _run(self, bare: BareLoop) -> None:
        self._began = time.perf_counter()
        while self._sent < len(self._frames):
            due = min(len(self._frames), int((time.perf_counter() - self._began) / self._every_s) + 1)
            if due > self._sent:
                await bare.publish(self._frames[self._sent : due])
                self._sent = due
            await asyncio.sleep(_PUBLISH_EVERY_S)


@asynccontextmanager
async def _ingest(
    nats_url: str, database: DatabaseConfig, config: DashboardConfig, tenant: str
) -> AsyncIterator[_Incoming]:
    """Facts that come in through broker and projector while the block runs."""
    # Twice as many as should be needed: asking may take longer on a busy machine.
    count = int(config.facts_per_s * (config.seconds * 2 + _FOLLOW_S) / workload.FRAME) + 100
    incoming = _Incoming(
        workload.progress_frames(count, workload.agents_of_all_partitions(4), tenant), config.facts_per_s
    )
    projector, upkeep = (
        Worker(Job(role=role, nats_url=nats_url, database_url=database.url)) for role in ("projector", "upkeep")
    )
    async with projector, upkeep, BareLoop(nats_url) as bare:
        incoming.start(bare)
        try:
            yield incoming
        finally:
            await incoming.stop()


async def _caught_up(conn: Connection, rows: int) -> None:
    """Return when all that was published is projected: an ingest that fell behind would flatter the answers."""
    try:
        async with asyncio.timeout(_CAUGHT_UP_S):
            while True:
                if await conn.fetchval("SELECT count(*) FROM coord.event") >= rows:
                    return
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise BenchError("what came in was not projected", seconds=_CAUGHT_UP_S) from None
