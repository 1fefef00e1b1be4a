"""What the tests of the store share: databases of each edition, rows, and a network that fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import msgspec
from prometheus_client import CollectorRegistry

from coord.core.checkpoint import Checkpoint
from coord.ops.devstack import DevStackConfig, PostgresOptions, install, places
from coord.ops.devstack.postgres import PostgresServer
from coord.store import checkpoints, timestamps
from coord.store.config import DatabaseConfig
from coord.store.pool import PROJECTOR_SETTINGS, Connection, Pool
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS, EventRow, SampleRow
from coord.telemetry.metrics import Metrics
from tests.support.cluster import RUN_DIR

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event(seq: int = 1, **fields: object) -> EventRow:
    """One row of coord.event; whatever is not given is ordinary."""
    at = fields.pop("at", None) or T0 + timedelta(milliseconds=seq)
    row = {
        "stored_at": at,
        "epoch": 1,
        "seq": seq,
        "idx": 0,
        "partition": 3,
        "tenant": "acme",
        "agent": "a1",
        "key": "k1",
        "kind": "task",
        "id": "t1",
        "event": "submitted",
        "detail": "",
        "event_id": f"e{seq}",
        "type": "coord.task.submitted",
        "schema": 1,
        "occurred_at": at,
        "correlation_id": None,
        "causation_id": None,
        "traceparent": None,
        "data": "null",
    } | fields
    return tuple(row[c] for c in EVENT_COLUMNS)  # type: ignore[return-value]


def sample(seq: int = 1, **fields: object) -> SampleRow:
    """One row of coord.metric_sample."""
    at = fields.pop("at", None) or T0 + timedelta(milliseconds=seq)
    row = {
        "stored_at": at,
        "epoch": 1,
        "seq": seq,
        "idx": 0,
        "partition": 3,
        "tenant": "acme",
        "agent": "a1",
        "series": "cpu",
        "occurred_at": at,
        "value": 0.5,
        "data": None,
    } | fields
    return tuple(row[c] for c in SAMPLE_COLUMNS)  # type: ignore[return-value]


def fact(seq: int, kind: str, id: str, event_name: str, data: object = None, **fields: object) -> EventRow:  # noqa: A002
    """A row of coord.event about `kind` `id`, with `data` as Python values."""
    return event(
        seq,
        key=id,
        kind=kind,
        id=id,
        event=event_name,
        type=f"coord.{kind}.{event_name}",
        data=json.dumps(data),
        **fields,
    )


@contextlib.asynccontextmanager
async def pool_of(url: str, **fields: Any) -> AsyncIterator[Pool]:
    """An open pool as the projector has it, with metrics of its own, but patient with a machine that stands still."""
    fields.setdefault("statement_timeout_s", 120.0)
    fields.setdefault("idle_in_transaction_s", fields["statement_timeout_s"])
    config = msgspec.structs.replace(DatabaseConfig(url=url, pool_min=1, pool_max=4), **fields)
    pool = Pool(config, settings=PROJECTOR_SETTINGS, metrics=Metrics(CollectorRegistry()), prepare=timestamps.teach)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close(timeout_s=0.5)


def plain_server() -> PostgresServer:
    """PostgreSQL from the wheel, without TimescaleDB: a server of the test's own.  Not started yet."""
    home = Path(os.environ[RUN_DIR]) / f"plain-{secrets.token_hex(4)}"  # the database's account can walk there
    account = places.database_account()
    cache = places.cache_dir(account, asked=DevStackConfig().cache_dir)
    provided = install.provide("plain", cache, account, print)
    return PostgresServer(home, provided, account, PostgresOptions(fsync=False, shared_buffers="64MB"))


@contextlib.asynccontextmanager
async def deaf_port() -> AsyncIterator[int]:
    """A port that accepts connections and never says a word."""
    open_ones: list[asyncio.StreamWriter] = []

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(writer)

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in open_ones:
            writer.transport.abort()
        server.close()
        await server.wait_closed()


class StallingProxy:
    """Passes bytes between a client and a server until told to stall: then it keeps silent and open."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self._to = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    def stall(self) -> None:
        """From now on nothing passes, in either direction."""
        self._flowing.clear()

    def resume(self) -> None:
        """What waited passes, and everything after it."""
        self._flowing.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._to)
        self._writers += [writer, there_writer]
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
        sink.close()


async def advance(conn: Connection, before: Checkpoint, after: Checkpoint, *, pending: int) -> None:
    """Move one checkpoint, as a writer does; raises `CheckpointMoved` when it is not at `before`."""
    if await checkpoints.advance_all(conn, [checkpoints.Move(before, after, pending)]):
        raise checkpoints.checkpoint_moved(before)
