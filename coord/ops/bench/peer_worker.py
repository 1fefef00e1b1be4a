"""``python -m coord.ops.bench.peer_worker JOB``: EVENTS into `coord.event` by somebody else's framework.

faststream        a batch pull subscriber whose handler does one asyncpg COPY a batch, as its
                  documentation shows one: bodies decoded, types applied (its log, a line a batch, is off)
faststream-lean   the same with everything switched off that can be
nats-sinks        its runner with a sink of our own that does the same

All acknowledge each message by itself once the COPY is committed; that is all they know of
exactly once.  Nothing of coord's client runs here: nats-py is as it was installed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import asyncpg

from coord.ops.bench import process
from coord.ops.bench.measure import BenchError, rss_bytes
from coord.ops.bench.peer_rows import row
from coord.ops.bench.workers import Job
from coord.store.pool import PROJECTOR_SETTINGS
from coord.store.rows import EVENT_COLUMNS, EventRow
from coord.wire import subjects

CONSUMER: Final = "peer"
"""The durable pull consumer each of them makes."""

_DRAIN_S: Final = 120.0
_ACK_PENDING_MAX: Final = 50_000
"""Of the consumer: JetStream's 1,000 would stop a pull of more."""


class Table:
    """Where both write: one connection with the projector's settings, one COPY and one commit a batch."""

    def __init__(self, conn: asyncpg.Connection[asyncpg.Record], expected: int) -> None:
        self._conn = conn
        self._expected = expected
        self._began = self._cpu = 0.0
        self._rows = self._transactions = 0
        self._done = asyncio.Event()

    @classmethod
    async def open(cls, job: Job) -> Table:
        """Connect."""
        return cls(await asyncpg.connect(job.database_url, server_settings=dict(PROJECTOR_SETTINGS)), job.expected)

    def begin(self) -> None:
        """Start the clock."""
        self._began, self._cpu = time.perf_counter(), time.process_time()

    async def write(self, rows: Sequence[EventRow]) -> None:
        """Commit a batch."""
        async with self._conn.transaction():
            await self._conn.copy_records_to_table("event", schema_name="coord", columns=EVENT_COLUMNS, records=rows)
        self._rows += len(rows)
        self._transactions += 1
        if self._rows >= self._expected:
            self._done.set()

    async def complete(self, worker: asyncio.Future[Any] | None = None) -> dict[str, float]:
        """Wait until all expected rows are committed; `worker` ends before that only by failing."""
        done = asyncio.ensure_future(self._done.wait())
        waiting: set[asyncio.Future[Any]] = {done} | ({worker} if worker else set())
        await asyncio.wait(waiting, timeout=_DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        seconds, cpu_s = time.perf_counter() - self._began, time.process_time() - self._cpu
        done.cancel()
        if worker is not None and worker.done():
            worker.result()
        if not self._done.is_set():
            raise BenchError("the peer did not write everything", rows=self._rows, expected=self._expected)
        return {
            "seconds": seconds,
            "cpu_s": cpu_s,
            "transactions": self._transactions,
            "rss_bytes": rss_bytes(os.getpid()),
        }

    async def close(self) -> None:
        """Disconnect."""
        await self._conn.close()


async def faststream(job: Job, _parent_gone: asyncio.Event) -> None:
    """FastStream as its documentation shows a batch pull subscriber; the bodies it decoded are not encoded again."""
    from faststream.nats.annotations import NatsMessage

    table = await Table.open(job)

    async def write(bodies: list[dict[str, Any]], message: Any) -> None:
        assert len(bodies) == len(message.raw_message)
        await table.write(_rows(message.raw_message))

    # It reads annotations in the module's names, where FastStream's are not imported.
    write.__annotations__ = {"bodies": list[dict[str, Any]], "message": NatsMessage}
    await _faststream(job, table, write, {"logger": None}, {})


async def faststream_lean(job: Job, _parent_gone: asyncio.Event) -> None:
    """FastStream without dependency injection and validation (`apply_types=False`) and decoding."""
    table = await Table.open(job)

    async def undecoded(message: Any) -> Any:
        return message.raw_message

    async def write(messages: list[Any]) -> None:
        await table.write(_rows(messages))

    await _faststream(job, table, write, {"apply_types": False, "logger": None}, {"decoder": undecoded})


async def _faststream(
    job: Job, table: Table, handler: Callable[..., Any], broker_options: dict[str, Any], options: dict[str, Any]
) -> None:
    """Its clock starts when it is connected; it acknowledges after the handler."""
    from faststream import AckPolicy
    from faststream.nats import JStream, NatsBroker, PullSub
    from nats.js.api import ConsumerConfig

    broker = NatsBroker(job.nats_url, **broker_options)
    broker.subscriber(
        subjects.LOG_ALL,
        stream=JStream(job.stream, declare=False),
        durable=CONSUMER,
        config=ConsumerConfig(max_ack_pending=_ACK_PENDING_MAX),
        pull_sub=PullSub(batch_size=job.batch, timeout=1.0, batch=True),
        ack_policy=AckPolicy.NACK_ON_ERROR,
        **options,
    )(handler)
    await broker.connect()
    process.say({"ready": True})
    table.begin()
    await broker.start()
    try:
        found = await table.complete()
    finally:
        await broker.stop()
        await table.close()
    process.say(found)


def _rows(messages: Sequence[Any]) -> list[EventRow]:
    rows = []
    for message in messages:
        metadata = message.metadata
        rows.append(row(message.subject, message.headers, message.data, metadata.sequence.stream, metadata.timestamp))
    return rows


class CopySink:
    """A sink for nats-sinks: asyncpg's COPY into `coord.event`."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def start(self) -> None:
        """Nothing: the table is open."""

    async def write_batch(self, messages: Sequence[Any]) -> None:
        """Commit the batch; the runner acknowledges it afterwards."""
        await self._table.write([row(m.subject, m.headers, m.data, m.stream_sequence, m.timestamp) for m in messages])

    async def stop(self) -> None:
        """Nothing: whoever opened the table closes it."""


async def nats_sinks(job: Job, _parent_gone: asyncio.Event) -> None:
    """nats-sinks: its pull runner, without a DLQ, without confirmed acks, without metrics."""
    from nats_sinks.core.config import ConsumerManagementConfig, DeliveryConfig
    from nats_sinks.core.runner import JetStreamSinkRunner

    table = await Table.open(job)
    runner = JetStreamSinkRunner(
        nats_url=job.nats_url,
        stream=job.stream,
        consumer=CONSUMER,
        subject=subjects.LOG_ALL,
        sink=CopySink(table),
        delivery=DeliveryConfig(batch_size=job.batch, batch_timeout_ms=1_000),
        consumer_management=ConsumerManagementConfig(max_ack_pending=_ACK_PENDING_MAX),
    )
    process.say({"ready": True})
    table.begin()
    running = asyncio.ensure_future(runner.run())
    try:
        found = await table.complete(running)
    finally:
        runner.request_stop()
        with suppress(Exception):  # what it says while it stops was said already
            await asyncio.wait_for(running, 10)
        await table.close()
    process.say(found)


if __name__ == "__main__":
    roles: dict[str, process.Role] = {
        "faststream": faststream,
        "faststream-lean": faststream_lean,
        "nats-sinks": nats_sinks,
    }
    sys.exit(process.main(sys.argv[1], roles))
