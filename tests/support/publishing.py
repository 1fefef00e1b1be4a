"""For tests of the publisher: a client with metrics of its own, and what the streams hold."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.direct import DirectReader, StoredMessage
from coord.client.config import PublisherConfig
from coord.client.connect import Coord, connect
from coord.core.retry import RetryPolicy
from coord.ops.devstack.nats import NatsServer
from coord.runtime import assets
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.envelope import Poison, StoredFact, StoredSample, decode_message
from tests.support.waiting import until


def quick(*, deadline_s: float = 30.0, attempt_s: float = 0.4, **fields: Any) -> PublisherConfig:
    """A publisher that resends and gives up within a test's patience."""
    retry = {name: fields.pop(name) for name in ("refused_wait_s", "backoff_s") if name in fields}
    retry.setdefault("refused_wait_s", min(1.0, deadline_s))
    retry.setdefault("backoff_s", 0.02)
    policy = RetryPolicy(attempt_s=attempt_s, attempt_max_s=2 * attempt_s, deadline_s=deadline_s, **retry)
    for linger in ("status_linger_ms", "progress_linger_ms", "metrics_linger_ms"):
        fields.setdefault(linger, 20)
    return PublisherConfig(retry=policy, **fields)


@contextlib.asynccontextmanager
async def client(url: str, *, agent: str = "a1", **options: Any) -> AsyncIterator[Coord]:
    """A client of a tenant of its own."""
    options.setdefault("tenant", f"t{secrets.token_hex(4)}")
    options.setdefault("metrics", Metrics(CollectorRegistry()))
    options.setdefault("publisher", quick())
    to = options.pop("to", url)
    async with connect(to, agent=agent, **options) as c:
        yield c


async def lose_broker(server: NatsServer, c: Coord) -> None:
    """Kill the server; returns once the client has noticed."""
    server.kill()
    await until(lambda: not c.connection.is_connected)


def count(c: Coord, name: str, **labels: str) -> float:
    """One of the client's metrics."""
    metrics = c._publisher._meter._metrics
    return metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def observer(url: str) -> AsyncIterator[Observer]:
    """A second connection, straight to the server, that makes streams and reads them."""
    async with await Connection.open(NatsConfig(urls=(url,)), name="observer", wait=True) as conn:
        reader = DirectReader(conn)
        yield Observer(conn, reader)
        await reader.close()


class Observer:
    """What the streams hold."""

    def __init__(self, conn: Connection, reader: DirectReader) -> None:
        self.conn = conn
        self._reader = reader

    async def make_streams(self, *, only: str | None = None, **overrides: Any) -> None:
        """The streams as streams/ defines them (or one of them), with `overrides` for EVENTS."""
        loaded = topology.load(assets.streams_dir(), "development")
        for spec in loaded.streams:
            if only is not None and spec.stream != only:
                continue
            changed = overrides if spec.stream == subjects.EVENTS else {}
            await topology.apply(
                self.conn, topology.Topology((msgspec.structs.replace(spec, config={**spec.config, **changed}),))
            )

    async def messages(self, stream: str, filter_subject: str) -> list[StoredMessage]:
        """Everything a stream holds under a filter, in order."""
        found: list[StoredMessage] = []
        seq = 1
        while True:
            batch = await self._reader.batch(stream, filter_subject, from_seq=seq, messages_max=1000)
            if not batch.messages:
                return found
            found += batch.messages
            seq = batch.messages[-1].seq + 1

    async def facts(self, c: Coord) -> list[StoredFact]:
        """The facts of a client's tenant, in log order."""
        return [f for m in await self.messages("EVENTS", f"coord.log.*.{c.tenant}.>") for f in facts_of(m)]

    async def samples(self, c: Coord) -> list[StoredSample]:
        """The samples of a client's tenant, in stream order."""
        found = []
        for message in await self.messages("TELEMETRY", f"coord.tlog.*.{c.tenant}.>"):
            for entry in _decoded(message):
                assert isinstance(entry, StoredSample), entry
                found.append(entry)
        return found


def facts_of(message: StoredMessage) -> list[StoredFact]:
    """The facts in one stored message; poison fails the test."""
    entries = _decoded(message)
    for entry in entries:
        assert isinstance(entry, StoredFact), entry
    return entries  # type: ignore[return-value]


def _decoded(message: StoredMessage) -> list[StoredFact | StoredSample | Poison]:
    return list(decode_message(message.subject, message.headers, message.body, message.seq, message.stored_at))
