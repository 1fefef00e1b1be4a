"""The pinned reader against a real server: order, resets, lost pins, lost consumers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.bus.pull import PinnedReader
from tests.support.reading import receive


@pytest.fixture
async def conn(nats_server):
    connection = await Connection.open(NatsConfig(urls=(nats_server.url,)), name="test")
    yield connection
    await connection.close()


@pytest.fixture(params=[60], ids=["pinned for long"])
async def stream(request, conn):
    """Its name; the parameter is how many seconds a pin outlives the last pull."""
    name = f"PULL{id(conn)}"
    await conn.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.*"], "storage": "memory"})
    config = {
        "name": "c", "durable_name": "c", "ack_policy": "all", "filter_subject": f"{name}.a", "max_deliver": -1,
        "ack_wait": 200_000_000_000, "max_ack_pending": 20_000, "priority_groups": ["w"],
        "priority_policy": "pinned_client", "priority_timeout": request.param * 1_000_000_000,
    }  # fmt: skip
    await conn.api(f"CONSUMER.CREATE.{name}.c.{name}.a", {"stream_name": name, "config": config})
    yield name
    await conn.api(f"STREAM.DELETE.{name}")


async def fill(conn: Connection, stream: str, count: int) -> list[int]:
    """`count` messages for the consumer, between as many that are not; returns their sequences."""
    seqs = []
    for i in range(count):
        await conn.request(f"{stream}.b")
        answer = await conn.request(f"{stream}.a", str(i).encode())
        seqs.append(int(answer.data.split(b'"seq":')[1].split(b",")[0].rstrip(b"}")))
    return seqs


async def read(reader: PinnedReader, count: int) -> list[int]:
    got: list[int] = []
    async with asyncio.timeout(60):
        while len(got) < count:
            got += [d.seq for d in await receive(reader, 100, 1.0)]
    return got


async def test_reads_everything_in_order_from_the_given_sequence(conn, stream) -> None:
    seqs = await fill(conn, stream, 50)
    reader = PinnedReader(conn, stream, "c", messages_max=8)
    await reader.wait_pinned()
    await reader.start(1)
    assert await read(reader, 50) == seqs
    await reader.start(seqs[20])
    assert await read(reader, 30) == seqs[20:]
    # one past the end is legal and waits for the next message
    await reader.start(seqs[-1] + 1)
    more = await fill(conn, stream, 3)
    assert await read(reader, 3) == more
    await reader.close()


async def test_a_message_larger_than_the_byte_bound_still_arrives(conn, stream) -> None:
    reader = PinnedReader(conn, stream, "c", messages_max=10, bytes_max=4096)
    for size in (10, 100_000, 10, 2_000, 2_000, 2_000, 50_000, 1):
        await conn.request(f"{stream}.a", b"x" * size)
    await reader.wait_pinned()
    await reader.start(1)
    assert len(await read(reader, 8)) == 8
    await reader.close()


async def test_the_second_reader_waits_and_takes_over_when_the_pin_is_given_back(conn, stream, nats_server) -> None:
    seqs = await fill(conn, stream, 5)
    first = PinnedReader(conn, stream, "c")
    await first.wait_pinned()
    await first.start(1)
    assert await read(first, 5) == seqs
    other = await Connection.open(NatsConfig(urls=(nats_server.url,)), name="other")
    second = PinnedReader(other, stream, "c")
    waiting = asyncio.create_task(second.wait_pinned())
    more = await fill(conn, stream, 1)
    assert await read(first, 1) == more
    assert not waiting.done()
    await first.unpin()
    last = await fill(conn, stream, 1)
    async with asyncio.timeout(60):
        await waiting
    await second.start(seqs[2])
    assert await read(second, 5) == [*seqs[2:], *more, *last]
    await second.close()
    await other.close()


@pytest.mark.parametrize("stream", [6], indirect=True)
async def test_what_a_dead_owner_had_received_comes_to_a_standby_that_rouses_the_consumer(
    conn, stream, nats_server
) -> None:
    """Nothing new arrives, and its unacknowledged deliveries would only come again after ack_wait."""
    seqs = await fill(conn, stream, 5)
    dying = await Connection.open(NatsConfig(urls=(nats_server.url,)), name="dying")
    first, second = PinnedReader(dying, stream, "c"), PinnedReader(conn, stream, "c")
    await first.wait_pinned()
    await first.start(1)
    assert await read(first, 5) == seqs
    waiting = asyncio.create_task(second.wait_pinned())
    assert not await second.rouse(0), "somebody is pinned"
    await dying.close()
    async with asyncio.timeout(100):  # ack_wait is twice as long
        while not await second.rouse(seqs[1]):
            assert not waiting.done()
            await asyncio.sleep(0.05)
        await waiting
    await second.start(seqs[1] + 1)
    assert await read(second, 3) == seqs[2:]
    await second.unpin()
    assert not await second.rouse(seqs[-1]), "nothing to give"
    await second.close()


async def test_a_pin_taken_away_is_noticed(conn, stream) -> None:
    await fill(conn, stream, 2)
    reader = PinnedReader(conn, stream, "c")
    await reader.wait_pinned()
    await reader.start(1)
    await read(reader, 2)
    await conn.api(f"CONSUMER.UNPIN.{stream}.c", {"group": "w"})
    await fill(conn, stream, 1)
    with pytest.raises((errors.PinLost, errors.DeliveryGap)):
        for _ in range(200):
            await receive(reader, 10, 0.5)
    await reader.close()


async def test_a_deleted_or_missing_consumer_is_an_error_not_a_hang(conn, stream) -> None:
    await fill(conn, stream, 1)
    reader = PinnedReader(conn, stream, "c")
    await reader.wait_pinned()
    await reader.start(1)
    await read(reader, 1)
    await conn.api(f"CONSUMER.DELETE.{stream}.c")
    with pytest.raises(errors.ApiNotFound):
        for _ in range(200):
            await receive(reader, 10, 0.5)
    await reader.stop()
    async with asyncio.timeout(60):
        with pytest.raises(errors.ApiNotFound):
            await reader.wait_pinned()
    await reader.close()


async def test_a_lost_delivery_breaks_the_session(conn, stream) -> None:
    """Somebody else's pull with our pin takes a message away: the next one shows the hole."""
    await fill(conn, stream, 3)
    reader = PinnedReader(conn, stream, "c", messages_max=2)
    await reader.wait_pinned()
    await reader.start(1)
    await read(reader, 3)
    inbox = conn.new_inbox()
    taken = asyncio.Event()
    await conn.subscribe(inbox, lambda m: taken.set() if m.status is None else None)
    # Unpinning the reader and pinning the thief: what arrives at the thief is lost to the reader.
    request = b'{"batch":1,"expires":30000000000,"group":"w","id":"%b"}' % (reader._pin or "").encode()
    for _ in range(4):
        conn.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.c", request, reply=inbox)
    await conn.flush()
    with pytest.raises(errors.DeliveryGap):
        for _ in range(200):
            await fill(conn, stream, 2)
            await receive(reader, 10, 0.2)
    assert taken.is_set()
    await reader.close()


async def test_a_lost_connection_ends_the_session(start_nats) -> None:
    server = await start_nats()
    conn = await Connection.open(NatsConfig(urls=(server.url,)), name="test")
    await conn.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"], "storage": "file"})
    config = {"name": "c", "durable_name": "c", "ack_policy": "all", "filter_subject": "s", "priority_groups": ["w"],
              "ack_wait": 200_000_000_000, "priority_policy": "pinned_client", "priority_timeout": 3_000_000_000,
    }  # fmt: skip
    await conn.api("CONSUMER.CREATE.S.c.s", {"stream_name": "S", "config": config})
    await conn.request("s", b"1")
    reader = PinnedReader(conn, "S", "c")
    await reader.wait_pinned()
    await reader.start(1)
    await read(reader, 1)
    server.kill()
    with pytest.raises((errors.NotConnected, errors.DeliveryGap)):
        for _ in range(500):
            await receive(reader, 10, 0.2)
    await server.start()
    async with asyncio.timeout(100):  # ack_wait is twice as long
        await conn.wait_connected()
        await reader.stop()
        # What had been delivered comes again by itself only after ack_wait: ask for it, as the projector does.
        waiting = asyncio.create_task(reader.wait_pinned())
        while not waiting.done():
            await reader.rouse(0)
            await asyncio.wait({waiting}, timeout=0.5)
        await waiting
        await reader.start(1)
        assert await read(reader, 1) == [1]
    await reader.close()
    await conn.close()


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (None, None),
        (b"NATS/1.0\r\n\r\n", None),
        (b"NATS/1.0\r\nX: y\r\n\r\n", b"NATS/1.0\r\nX: y\r\n\r\n"),
        (b"NATS/1.0\r\nNats-Pin-Id: forged\r\n\r\n", b"NATS/1.0\r\nNats-Pin-Id: forged\r\n\r\n"),
        (b"NATS/1.0\r\nce-id: truncated", b"NATS/1.0\r\nce-id: truncat"),
        (b"NATS/1.0\r\nce-id: \xff\r\n\r\n", b"NATS/1.0\r\nce-id: \xff\r\n\r\n"),
    ],
    ids=["none", "empty", "usual", "forged", "truncated", "not UTF-8"],
)
async def test_headers_arrive_as_they_were_published(conn, stream, sent: bytes | None, received: bytes | None) -> None:
    """The server adds the pin to every delivery, and mends what was malformed."""
    reader = PinnedReader(conn, stream, "c")
    for _ in range(2):
        conn.publish(f"{stream}.a", b"body", headers=sent)
    await conn.flush()
    await reader.wait_pinned()
    await reader.start(1)
    got: list[Any] = []
    async with asyncio.timeout(60):
        while len(got) < 2:
            got += await receive(reader, 10, 1.0)
    assert [d.raw_headers for d in got] == [received, received]
    assert [d.data for d in got] == [b"body", b"body"]
    await reader.close()
