"""The reader without a consumer against a real server: it says what a pinned reader says."""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime
from typing import Any

import pytest

from coord import errors
from coord.bus import unled
from coord.bus.connection import Connection, NatsConfig
from coord.bus.direct import _Collector
from coord.bus.patched import as_message
from coord.bus.pull import Delivery, PinnedReader
from coord.bus.unled import UnledReader
from tests.support.reading import receive


@pytest.fixture
async def conn(nats_server):
    async with await Connection.open(NatsConfig(urls=(nats_server.url,)), name="test") as connection:
        yield connection


@pytest.fixture(autouse=True)
def _unled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks after the consumer's leader, which there is: a session would be over on a machine that stands still
    for half a second, and then there is nothing to be read and nothing to be waited for."""
    monkeypatch.setattr(unled, "LED_S", 600.0)


@pytest.fixture
async def stream(conn):
    name = f"UNLED{secrets.token_hex(4)}"
    config = {"name": name, "subjects": [f"{name}.>"], "storage": "memory", "allow_direct": True}
    await conn.api(f"STREAM.CREATE.{name}", config)
    consumer = {
        "name": "c", "durable_name": "c", "ack_policy": "none", "filter_subject": f"{name}.a.>", "max_deliver": -1,
        "mem_storage": True, "priority_groups": ["w"], "priority_policy": "pinned_client",
        "priority_timeout": 60_000_000_000,
    }  # fmt: skip
    await conn.api(f"CONSUMER.CREATE.{name}.c.{name}.a.>", {"stream_name": name, "config": consumer})
    yield name
    await conn.api(f"STREAM.DELETE.{name}")


async def read(reader: Any, count: int) -> list[Delivery]:
    got: list[Delivery] = []
    async with asyncio.timeout(100):
        while len(got) < count:
            got += await receive(reader, 7, 1.0)
            await asyncio.sleep(0)
    return got


def told(deliveries: list[Delivery]) -> list[Any]:
    # The tables' times are in microseconds.
    return [(d.seq, d.stored_ns // 1000, d.subject, d.raw_headers, d.data) for d in deliveries]


async def test_it_reads_what_a_pinned_reader_reads(conn, stream) -> None:
    heads = [None, b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nNats-Sequence: 7\r\n\r\n"]
    for i in range(60):
        conn.publish(f"{stream}.b.{i}", b"not mine")
        conn.publish(f"{stream}.a.{i % 9}", b"x" * (i * 977 % 5000), headers=heads[i % len(heads)])
    await conn.flush()
    pinned = PinnedReader(conn, stream, "c")
    await pinned.wait_pinned()
    await pinned.start(1)
    expected = told(await read(pinned, 60))
    await pinned.close()
    bare = UnledReader(conn, stream, "c", f"{stream}.a.>", messages_max=10, bytes_max=9_000)
    await bare.start(1)
    assert told(await read(bare, 60)) == expected
    await bare.start(expected[30][0])
    assert told(await read(bare, 30)) == expected[30:]
    # What comes later is read, too, and what is put back comes again.
    conn.publish(f"{stream}.a.z", b"later")
    late = await read(bare, 1)
    assert [d.data for d in late] == [b"later"]
    bare.put_back(late)
    assert bare.take(10) == late
    assert bare.is_empty
    await bare.close()


async def test_it_is_over_once_the_consumer_answers(conn, stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unled, "LED_S", 0.05)
    ask, away = Connection.api, True

    async def api(self: Connection, request: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if away and request.startswith("CONSUMER."):
            raise errors.ApiUnavailable(request=request)
        return await ask(self, request, *args, **kwargs)

    monkeypatch.setattr(Connection, "api", api)
    reader = UnledReader(conn, stream, "c", f"{stream}.a.>")
    await reader.start(1)
    assert await receive(reader, 10, 0.5) == []
    before = reader.is_over
    away = False
    async with asyncio.timeout(100):
        assert await receive(reader, 10, 60.0) == []
    assert (before, reader.is_over) == (False, True)
    await reader.close()


async def test_a_stream_made_anew_is_not_read_on(conn, stream) -> None:
    reader = UnledReader(conn, stream, "c", f"{stream}.a.>")
    await reader.start(3)
    config = (await conn.api(f"STREAM.INFO.{stream}"))["config"]
    await conn.api(f"STREAM.DELETE.{stream}")
    await conn.api(f"STREAM.CREATE.{stream}", config)
    for _ in range(5):
        conn.publish(f"{stream}.a.x", b"of another log")
    reader.is_over = False
    with pytest.raises(errors.DeliveryGap):
        await read(reader, 1)
    await reader.close()


async def test_a_stream_made_anew_before_the_session_is_not_read(conn, stream) -> None:
    reader = UnledReader(conn, stream, "c", f"{stream}.a.>")
    info = await conn.api(f"STREAM.INFO.{stream}")
    created = datetime.fromisoformat(info["created"])
    await reader.start(3, created=created)
    await conn.api(f"STREAM.DELETE.{stream}")
    await conn.api(f"STREAM.CREATE.{stream}", info["config"])
    with pytest.raises(errors.DeliveryGap, match="anew"):
        await reader.start(3, created=created)
    await reader.close()


def _part(seq: int, previous: int) -> Any:
    place = f"Nats-Stream: S\r\nNats-Subject: a\r\nNats-Sequence: {seq}\r\nNats-Time-Stamp: 2026-11-21T10:00:00Z\r\n"
    rest = f"Nats-Num-Pending: 1\r\nNats-Last-Sequence: {previous}\r\n\r\n"
    return as_message(b"i", b"", f"NATS/1.0\r\n{place}{rest}".encode(), b"x")


def _end(previous: int) -> Any:
    head = f"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: {previous}\r\n\r\n"
    return as_message(b"i", b"", head.encode(), b"")


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_a_part_that_was_lost_on_the_way_is_missed(lost: int) -> None:
    answer = [_part(3, 0), _part(5, 3), _part(9, 5), _end(9)]
    whole, part = _Collector(), _Collector()
    for message in answer:
        whole.receive(message)
    for message in answer[:lost] + answer[lost + 1 :]:
        part.receive(message)
    assert [m.seq for m in (await whole.done).messages] == [3, 5, 9]
    with pytest.raises(errors.DeliveryGap):
        await part.done
