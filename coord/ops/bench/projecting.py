"""Figures of projecting: draining a backlog against COPY of the same rows.

frame_ratio        rows/s of a projector that drains frames of 100 samples into
                   `metric_sample` ÷ `bare_copy` of the very rows it wrote
frame_event_ratio  the same with frames of 100 facts `task.progress`, into `event`
single_ratio       the same with single facts, into `event`

coord's side is a projector in a process of its own, with its defaults, that starts on a full
backlog of all 16 partitions.  Its clock runs from its first pinned partition to its last
commit: pinning and resetting the other 15 is inside, connecting and agreeing on who owns what
(a fixed 0.6 s) is not.  The bare side runs here, on one connection with the projector's
session settings, in transactions of 10,000 rows, into the same tables with their indexes and
chunks, emptied before each round of either side; its rows are ready and in the order of the
log, the order that is quickest to index.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Literal, TypeAlias, get_args

import asyncpg
import msgspec

from coord import limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops.bench import servers, workload
from coord.ops.bench.bare import BareLoop, bare_copy
from coord.ops.bench.ends import partition_ends
from coord.ops.bench.measure import BenchError, Clock, Figures, Run, Side, alternate, quiet_heap, rates, ratios, settle
from coord.ops.bench.workers import Job, Worker
from coord.runtime import assets
from coord.store.config import DatabaseConfig
from coord.store.pool import PROJECTOR_SETTINGS, Pool
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS
from coord.wire import subjects
from coord.wire.envelope import Encoded

_AGENTS_PER_PARTITION: Final = 4

_DRAIN_S: Final = 180.0

Kind: TypeAlias = Literal["samples", "progress", "singles"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""The backlogs: frames of samples, frames of facts, single facts."""

_FIGURES: Final[dict[str, str]] = {"samples": "frame", "progress": "frame_event", "singles": "single"}


class Counts(msgspec.Struct, frozen=True):
    """Rows of each backlog."""

    framed: int
    singles: int


class Backlog(msgspec.Struct, frozen=True):
    """One kind of messages, and where they end up."""

    name: str
    stream: str
    table: str
    columns: tuple[str, ...]
    messages: list[Encoded]
    rows: int


async def projecting(
    nats_url: str,
    nats_pid: int,
    database: DatabaseConfig,
    postgres_pid: int | None,
    counts: Counts,
    rounds: int,
    say: Callable[[str], None],
    *,
    kinds: Sequence[Kind] = KINDS,
    bare: bool = True,
    profile: str | None = None,
) -> tuple[Figures, dict[str, list[Run]]]:
    """All figures of projecting, and the rounds behind them.

    `kinds`: of which backlogs.  `bare`: with COPY by hand beside each, and the ratios.
    `profile`: a file for cProfile's data of the last projector; makes every figure wrong.
    """
    found: dict[str, list[Run]] = {}
    figures: Figures = {}
    async with (
        await Connection.open(NatsConfig(urls=(nats_url,)), name="bench") as conn,
        Pool(msgspec.structs.replace(database, pool_min=1), settings=PROJECTOR_SETTINGS) as pool,
    ):
        for backlog in backlogs(counts, kinds):
            say(f"  {backlog.name}: {backlog.rows:,} rows in {len(backlog.messages):,} messages")
            bench = Bench(nats_url, nats_pid, conn, pool, postgres_pid, backlog, profile)
            await bench.fill()
            drained, copied = f"drain_{backlog.name}", f"copy_{backlog.name}"
            sides: dict[str, Side] = {drained: bench.drain}
            if bare:
                sides[copied] = bench.copy
            found |= await alternate(rounds, sides, say)
            figure = _FIGURES[backlog.name]
            if bare:
                figures[f"{figure}_ratio"] = ratios(found[drained], found[copied])
            figures[f"{figure}_rows_per_s"] = rates(found[drained])
            await bench.clear()
    return figures, found


@asynccontextmanager
async def opened(
    nats_url: str, nats_pid: int, database: DatabaseConfig, postgres_pid: int | None, backlog: Backlog
) -> AsyncIterator[Bench]:
    """The bench of one backlog, which is in its stream; taken out again at the end."""
    async with (
        await Connection.open(NatsConfig(urls=(nats_url,)), name="bench") as conn,
        Pool(msgspec.structs.replace(database, pool_min=1), settings=PROJECTOR_SETTINGS) as pool,
    ):
        bench = Bench(nats_url, nats_pid, conn, pool, postgres_pid, backlog)
        await bench.fill()
        yield bench
        await bench.clear()


def backlogs(counts: Counts, kinds: Sequence[Kind]) -> Iterator[Backlog]:
    """Made one at a time: each is some hundred megabytes."""
    agents = workload.agents_of_all_partitions(_AGENTS_PER_PARTITION)
    frames = max(limits.PARTITIONS, counts.framed // workload.FRAME)
    singles = max(limits.PARTITIONS, counts.singles)
    rows = frames * workload.FRAME
    if "samples" in kinds:
        messages = workload.sample_frames(frames, workload.numbers(), agents)
        yield Backlog("samples", subjects.TELEMETRY, "metric_sample", SAMPLE_COLUMNS, messages, rows)
    if "progress" in kinds:
        messages = workload.progress_frames(frames, agents)
        yield Backlog("progress", subjects.EVENTS, "event", EVENT_COLUMNS, messages, rows)
    if "singles" in kinds:
        messages = workload.encoded_facts(singles, workload.bodies(), agents)
        yield Backlog("singles", subjects.EVENTS, "event", EVENT_COLUMNS, messages, singles)


class Bench:
    """One backlog and its two sides."""

    def __init__(
        self,
        nats_url: str,
        nats_pid: int,
        conn: Connection,
        pool: Pool,
        postgres_pid: int | None,
        backlog: Backlog,
        profile: str | None = None,
    ) -> None:
        self._nats_url = nats_url
        self._nats_pid = nats_pid
        self._conn = conn
        self._pool = pool
        self._postgres_pid = postgres_pid
        self.backlog = backlog
        self._profile = profile
        self._ends: dict[int, int] = {}
        self._rows: list[tuple[object, ...]] = []
        """Those of the backlog, as the projector wrote them."""
        self.beside: Job | None = None
        """What a further process does while the backlog is drained."""

    async def fill(self) -> None:
        """Put the backlog into its stream, and note where each partition of it ends."""
        async with BareLoop(self._nats_url) as bare:
            await bare.publish(self.backlog.messages)
        self._ends = await partition_ends(self._conn, self.backlog.stream)

    async def clear(self) -> None:
        """Take the backlog out again: the next one must not find it."""
        await self._conn.api(f"STREAM.PURGE.{self.backlog.stream}", timeout_s=60)
        self._rows = []

    async def drain(self) -> Run:
        """The projector's side."""
        await self.empty()
        await self._new_consumers()
        job = Job(
            role="drain",
            nats_url=self._nats_url,
            database_url=self._pool.config.url,
            stream=self.backlog.stream,
            ends=self._ends,
            profile=self._profile,
        )
        async with AsyncExitStack() as stack:
            if self.beside is not None:
                await stack.enter_async_context(Worker(self.beside))
            clock = Clock(server=self._nats_pid, database=self._postgres_pid)
            worker = await stack.enter_async_context(Worker(job))
            found = await worker.result(_DRAIN_S)
            await settle()  # a session that ends just now would be counted nowhere
            clock.settle()
        await self.check()
        clock.seconds, clock.client_cpu_s = found["seconds"], found["cpu_s"]
        return clock.run(
            self.backlog.rows,
            transactions=found["transactions"],
            rss_mib=found["rss_bytes"] / 2**20,
        )

    async def copy(self) -> Run:
        """The bare side; called after `drain`, whose rows it writes again."""
        backlog = self.backlog
        if not self._rows:  # what is in the stream stays the same, and so do its rows
            async with self._pool.acquire() as conn:
                self._rows = await _rows(conn, backlog.table, backlog.columns)
        rows = self._rows
        await self.empty()
        async with self._pool.acquire() as conn:
            with quiet_heap():
                clock = Clock(database=self._postgres_pid)
                await bare_copy(conn, backlog.table, backlog.columns, rows)
                clock.stop()
        await self.check()
        return clock.run(len(rows))

    async def empty(self) -> None:
        """Leave no row, and nothing for the server to write behind somebody's back."""
        async with self._pool.acquire() as conn:
            await conn.execute(await conn.fetchval(servers.TRUNCATE))
            # What the side before left to write must not be written during this one.
            await conn.execute("CHECKPOINT")
        await settle()

    async def _new_consumers(self) -> None:
        """Consumers that have seen nothing: without a delivery nobody would be pinned."""
        wanted = topology.load(assets.streams_dir(), "production")
        mine = [s for s in wanted.specs if s.stream == self.backlog.stream and s.consumer is not None]
        await asyncio.gather(*(self._conn.api(f"CONSUMER.DELETE.{s.stream}.{s.consumer}") for s in mine))
        await topology.apply(self._conn, wanted)

    async def check(self) -> None:
        """Raise `BenchError` unless every fact is a row, once."""
        async with self._pool.acquire() as conn:
            rows = await conn.fetchval(f"SELECT count(*) FROM coord.{self.backlog.table}")  # noqa: S608 - ours
            dead = await conn.fetchval("SELECT count(*) FROM coord.dead_letter")
        if rows != self.backlog.rows or dead:
            raise BenchError("not what was published", rows=rows, dead_letters=dead, published=self.backlog.rows)


async def _rows(
    conn: asyncpg.Connection[asyncpg.Record], table: str, columns: Sequence[str]
) -> list[tuple[object, ...]]:
    found = await conn.fetch(f"SELECT {', '.join(columns)} FROM coord.{table} ORDER BY seq, idx")  # noqa: S608 - ours
    return [tuple(row) for row in found]
