"""The five paths whose counts have a budget, each driven so that its counts do not depend on time.

A path runs in this thread under uvloop against real servers, behind proxies that count.  What
would be decided by who is faster is decided by holding one side back: acks until everything is
published, the database until everything is in hand.  So batches are as large as they get, on
every machine.

publish_single   `emit` of facts of the critical class
publish_frame    `sample` one by one, in frames that the publisher makes
project_single   a projector and single facts
project_frame    a projector and frames of 100 samples
subscribe        one subscriber of one key
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg
import msgspec
from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus.connection import Connection, NatsConfig
from coord.client.config import PublisherConfig
from coord.client.connect import Coord
from coord.client.subscriber import subscribe
from coord.core.retry import RetryPolicy
from coord.ops.bench import ends, workload
from coord.ops.bench.author import author
from coord.ops.bench.bare import BareLoop
from coord.ops.bench.counting import Aside, Held, Opcodes, Wire
from coord.ops.bench.measure import BenchError
from coord.ops.bench.workers import Job, Worker
from coord.projector.config import ProjectorConfig
from coord.projector.service import ProjectorService
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.envelope import Encoded

Counts = dict[str, float]
"""Of one path: what is counted → how many for one fact, sample or row."""

SINGLES: Final = 600
"""Facts published, and heard."""
SAMPLES: Final = 3_000
ROWS: Final = 1_600
"""Single facts projected."""
FRAMES: Final = 128
"""Of `workload.FRAME` entries, to be projected."""

_PATIENCE_S: Final = 120.0
_TRIES: Final = 3

_PUBLISHER: Final = PublisherConfig(metrics_linger_ms=20_000, retry=RetryPolicy(attempt_s=25.0, attempt_max_s=25.0))
"""However slow the machine: frames are closed when they are full, and nothing is sent twice."""


async def measure(nats_url: str, database: DatabaseConfig) -> dict[str, Counts]:
    """All five, on servers where nothing else runs."""
    async with AsyncExitStack() as stack:
        aside = await stack.enter_async_context(Aside())
        nats = await stack.enter_async_context(Wire(aside, nats_url))
        db = await stack.enter_async_context(Wire(aside, database.url))
        paths = _Paths(aside, nats, db, nats_url, database)
        return {
            "publish_single": await paths.publish_single(),
            "publish_frame": await paths.publish_frame(),
            "project_single": await paths.project_single(),
            "project_frame": await paths.project_frame(),
            "subscribe": await paths.subscribe(),
        }


class _Paths:
    """See the module."""

    def __init__(self, aside: Aside, nats: Wire, db: Wire, nats_url: str, database: DatabaseConfig) -> None:
        self._aside = aside
        self._nats = nats
        self._db = db
        self._nats_url = nats_url
        self._database = database
        self._agents = workload.agents_of_all_partitions(1)

    # --- publishing ----------------------------------------------------------------------

    async def publish_single(self) -> Counts:
        """Each fact a message of its own, 600 in flight at a time."""
        facts = list(workload.facts(SINGLES, workload.bodies()))

        async def publish(coord: Coord) -> None:
            for fact in facts:
                await coord.emit(fact)

        return await self._publish(subjects.EVENTS, SINGLES, publish)

    async def publish_frame(self) -> Counts:
        """Frames of 100; the first sample of an idle publisher goes alone."""
        values = workload.numbers()

        async def publish(coord: Coord) -> None:
            for i in range(SAMPLES):
                await coord.sample(workload.SERIES[0], values[i % len(values)])

        return await self._publish(subjects.TELEMETRY, SAMPLES, publish)

    async def _publish(self, stream: str, count: int, publish: Callable[[Coord], Awaitable[None]]) -> Counts:
        async with author(self._nats.url, _PUBLISHER) as coord:
            await publish(coord)  # caches and templates are there afterwards
            await coord.flush()
            before, wire = await self._stored(stream), (self._nats.sent, self._nats.received)
            await self._nats.hold()
            held, opcodes = Held(), Opcodes()
            with held.traced():
                with opcodes.counted():
                    await publish(coord)
                held.weigh()
            with opcodes.counted():
                await self._nats.release()
                await coord.flush()
            after = await self._stored(stream)
            return {
                "bytecodes": opcodes.count / count,
                "memory_in_flight": held.bytes / count,
                "messages": (after["messages"] - before["messages"]) / count,
                "bytes_sent": (self._nats.sent - wire[0]) / count,
                "bytes_received": (self._nats.received - wire[1]) / count,
                "bytes_stored": (after["bytes"] - before["bytes"]) / count,
            }

    async def _stored(self, stream: str) -> dict[str, int]:
        async def ask() -> dict[str, int]:
            async with await Connection.open(NatsConfig(urls=(self._nats_url,)), name="bench-budget") as conn:
                state: dict[str, int] = (await conn.api(f"STREAM.INFO.{stream}"))["state"]
                return state

        return await self._aside.run(ask())

    # --- projecting ----------------------------------------------------------------------

    async def project_single(self) -> Counts:
        """Rows of `coord.event`, one a message."""
        messages = workload.encoded_facts(ROWS, workload.bodies(), self._agents)
        return await self._project(subjects.EVENTS, "event", ROWS, messages)

    async def project_frame(self) -> Counts:
        """Rows of `coord.metric_sample`, a hundred a message."""
        messages = workload.sample_frames(FRAMES, workload.numbers(), self._agents)
        return await self._project(subjects.TELEMETRY, "metric_sample", FRAMES * workload.FRAME, messages)

    async def _project(self, stream: str, table: str, count: int, messages: list[Encoded]) -> Counts:
        """Where a slow machine disturbs each run, the least disturbed: reading again only ever costs more."""
        runs: list[Counts] = []
        while len(runs) < _TRIES:
            found, is_undisturbed = await self._projected(stream, table, count, workload.with_new_ids(messages))
            if is_undisturbed:
                return found
            runs.append(found)
        return min(runs, key=lambda run: run["bytecodes"])

    async def _projected(self, stream: str, table: str, count: int, messages: list[Encoded]) -> tuple[Counts, bool]:
        """And whether the partitions were read together all the time: they part when the process stands still."""
        database = msgspec.structs.replace(
            self._database, url=self._db.url, pool_min=limits.PROJECT_WRITERS,
            # It is held back in a transaction, on a slow machine for longer than the server would let it idle.
            idle_in_transaction_s=_PATIENCE_S, statement_timeout_s=_PATIENCE_S,
        )  # fmt: skip
        service = ProjectorService(
            NatsConfig(urls=(self._nats.url,)),
            database,
            ProjectorConfig(streams=(stream,)),
            registry=Metrics(CollectorRegistry()),
        )
        # The same once before: partitions are pinned, caches and buffers as large as they get.
        await self._aside.run(self._bare_publish(workload.with_new_ids(messages)))
        await service.start()
        try:
            await self._aside.run(self._until_caught_up(stream))
            await self._until_gathered(service, stream)
            await self._nats.quiet()
            rows = await self._aside.run(self._rows(table))
            await self._db.hold()
            opcodes, held = Opcodes(), Held()
            nats = (self._nats.sent, self._nats.received)
            wire = (self._db.sent, self._db.turns)
            with held.traced():
                # In pieces as large as they get: each piece is a turn of the reader, a busy machine makes many of them.
                await self._nats.hold()
                await self._aside.run(self._bare_publish(messages))
                with opcodes.counted():
                    await self._nats.release()
                    await self._nats.quiet()
                held.weigh()
            with opcodes.counted():
                await self._db.release()
                await self._aside.run(self._until_caught_up(stream))
            found = {
                "bytecodes": opcodes.count / count,
                "memory_in_hand": held.bytes / count,
                "nats_bytes_received": (self._nats.received - nats[1]) / count,
                "database_bytes_sent": (self._db.sent - wire[0]) / count,
                "database_round_trips_a_thousand": (self._db.turns - wire[1]) / count * 1_000,
                "row_bytes": await self._aside.run(self._row_bytes(table)),
            }
            written = await self._aside.run(self._rows(table)) - rows
            is_undisturbed = _gathered(service, stream)
        finally:
            await service.drain()
            await service.stop()
        if written != count:
            raise BenchError("the projector did not write what was published", rows=written, published=count)
        return found, is_undisturbed

    async def _bare_publish(self, messages: list[Encoded]) -> None:
        async with BareLoop(self._nats_url) as bare:
            await bare.publish(messages)

    async def _until_caught_up(self, stream: str) -> None:
        """Until every partition's checkpoint has the partition's last message."""
        async with await Connection.open(NatsConfig(urls=(self._nats_url,)), name="bench-budget") as broker:
            wanted = await ends.partition_ends(broker, stream)
        conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self._database.url)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    if ends.reached(wanted, await ends.checkpoints(conn, stream)):
                        return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise BenchError(f"the projector did not catch up within {_PATIENCE_S:g} s", stream=stream) from None
        finally:
            await conn.close()

    async def _until_gathered(self, service: ProjectorService, stream: str) -> None:
        """Until one consumer reads for all partitions: how soon it does is a matter of time, what it costs is not."""
        deadline = time.monotonic() + _PATIENCE_S
        while not _gathered(service, stream):
            if time.monotonic() > deadline:
                raise BenchError(f"the partitions are not read together after {_PATIENCE_S:g} s", stream=stream)
            await asyncio.sleep(0.02)

    async def _rows(self, table: str) -> int:
        return int(await self._ask(f"SELECT count(*) FROM coord.{table}"))  # noqa: S608 - ours

    async def _row_bytes(self, table: str) -> float:
        return float(await self._ask(f"SELECT avg(pg_column_size(t.*)) FROM coord.{table} AS t"))  # noqa: S608 - ours

    async def _ask(self, query: str) -> Any:
        conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self._database.url)
        try:
            return await conn.fetchval(query)
        finally:
            await conn.close()

    # --- subscribing ---------------------------------------------------------------------

    async def subscribe(self) -> Counts:
        """Live facts of one key, handed out by `async for`; first all are received, then all are taken."""
        message = workload.encoded_facts(1, workload.bodies(), self._agents)[0]
        parsed = subjects.parse_published(message.subject)
        assert isinstance(parsed, subjects.FactSubject)
        messages = [message] * SINGLES
        service = Job(role="service", nats_url=self._nats_url, database_url=self._database.url)
        async with (
            Worker(service),
            await Connection.open(NatsConfig(urls=(self._nats.url,)), name="bench-subscriber") as conn,
            subscribe(
                conn, tenant=workload.TENANT, as_agent="listener", key=parsed.key,
                registry=Metrics(CollectorRegistry()),
            ) as facts,
        ):  # fmt: skip
            await facts.wait_ready(_PATIENCE_S)
            await self._hear(facts, workload.with_new_ids(messages))
            received, opcodes, held = self._nats.received, Opcodes(), Held()
            fresh = workload.with_new_ids(messages)
            with held.traced():
                with opcodes.counted():
                    await self._aside.run(self._bare_publish(fresh))
                    await self._nats.quiet()
                held.weigh()
            with opcodes.counted():
                await self._take(facts, SINGLES)
            return {
                "bytecodes": opcodes.count / SINGLES,
                "memory_in_hand": held.bytes / SINGLES,
                "bytes_received": (self._nats.received - received) / SINGLES,
            }

    async def _hear(self, facts: Any, messages: list[Encoded]) -> None:
        await self._aside.run(self._bare_publish(messages))
        await self._take(facts, len(messages))

    async def _take(self, facts: Any, count: int) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            async for _ in facts:
                count -= 1
                if not count:
                    return


def _gathered(service: ProjectorService, stream: str) -> bool:
    found = service.metrics.registry.get_sample_value("coord_partitions_gathered", {"consumer": f"{stream}/projector"})
    return found == limits.PARTITIONS
