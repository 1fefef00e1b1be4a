"""Nothing that answers wrongly, or not at all, stops a partition for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Message
from coord.bus.pull import PinnedReader
from coord.core import checkpoint
from coord.projector import dead_letters, partition
from coord.projector.config import ProjectorConfig
from coord.projector.service import ProjectorService
from coord.runtime import assets
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics

pytestmark = pytest.mark.slow

GOOD = "coord.ev.acme.me.me.agent.me.status"
POISON = "coord.ev.acme.me.other.agent.other.status"


@pytest.fixture
async def nats(start_nats):
    return await start_nats()


@pytest.fixture
async def conn(nats) -> AsyncIterator[Connection]:
    connection = await Connection.open(NatsConfig(urls=(nats.url,)), name="test")
    await topology.apply(connection, topology.load(assets.streams_dir(), "development"))
    yield connection
    await connection.close()


@pytest.fixture
async def db(migrated_database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(migrated_database.url)
    yield connection
    await connection.close()


@pytest.fixture
def service(nats, migrated_database) -> ProjectorService:
    return ProjectorService(
        NatsConfig(urls=(nats.url,)),
        DatabaseConfig(url=migrated_database.url, pool_min=1, pool_max=6),
        ProjectorConfig(streams=("EVENTS",), idle_checkpoint_s=0.5, retry_max_s=0.2),
        registry=Metrics(CollectorRegistry()),
    )


async def rows(db: asyncpg.Connection, table: str, wanted: int) -> None:
    async with asyncio.timeout(40):
        while (await db.fetchval(f"SELECT count(*) FROM coord.{table}")) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("answer", [None, b"\xff", b"[]", b'{"error":7}'], ids=["mute", "bytes", "list", "odd error"])
async def test_a_dead_letter_queue_that_is_none_blocks_no_partition(
    conn, db, service, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    """Without the stream, somebody's listener on coord.dlq.> takes what is published there."""
    monkeypatch.setattr(dead_letters, "_MUTE_S", 0.3)
    monkeypatch.setattr("coord.limits.RPC_TIMEOUT_S", 0.2)
    await conn.api("STREAM.DELETE.DLQ")

    def listen(message: Message) -> None:
        if answer is not None:
            conn.publish(message.reply, answer)

    await conn.subscribe("coord.dlq.>", listen)
    for subject in (POISON, GOOD, POISON):
        await conn.request(subject, b"{}")
    async with service:
        await rows(db, "dead_letter", 2)
        await rows(db, "event", 1)
        await conn.request(POISON, b"{}")
        await rows(db, "dead_letter", 3)


async def test_lost_acknowledgements_do_not_stall_a_partition(
    conn, db, service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a consumer's leader moves: the server waits for acks that were sent, and delivers no more."""
    for p in range(16):
        config = (await conn.api(f"CONSUMER.INFO.EVENTS.projector-{p}"))["config"] | {"max_ack_pending": 10}
        await conn.api(
            f"CONSUMER.CREATE.EVENTS.projector-{p}.coord.log.{p}.>",
            {"stream_name": "EVENTS", "config": config, "action": "update"},
        )
    monkeypatch.setattr(PinnedReader, "ack", lambda *_: None)
    for _ in range(25):
        await conn.request(GOOD, b"{}")
    async with service:
        await rows(db, "event", 25)


async def test_a_defect_ends_a_session_and_nothing_else(conn, db, service, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = checkpoint.judge
    failures = [KeyError("state"), ValueError("time"), AssertionError()]

    def failing(*args: Any) -> errors.ProjectionStopped | None:
        if failures:
            raise failures.pop()
        return judge(*args)

    monkeypatch.setattr(partition, "judge", failing)
    await conn.request(GOOD, b"{}")
    async with service:
        await rows(db, "event", 1)
        assert not any(p.closed.is_set() for p in service.partitions)
        assert all(loop["restarts"] == 0 for loop in service.health()["loops"].values())
    assert all(p.closed.is_set() for p in service.partitions)


async def test_an_answer_that_is_not_jetstreams_is_an_error_of_the_bus(conn) -> None:
    await conn.subscribe("$JS.API.NONE", lambda m: conn.publish(m.reply, b"[1"))
    with pytest.raises(errors.BusError, match="not JetStream"):
        await conn.api("NONE")


async def test_a_listener_that_raises_does_not_deafen_its_connection(conn) -> None:
    def raising(_subject: str) -> None:
        raise KeyError

    conn.on_permission_denied(raising)
    before = conn.callback_errors
    await conn._error(Exception('nats: permissions violation for publish to "x"'))
    assert conn.callback_errors == before + 1
