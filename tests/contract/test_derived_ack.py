"""Deliveries settled by somebody who never received them, through a subject made of consumer and sequence.

Deciders settle so (DESIGN §7), and agents need no `$JS.ACK` permission.  The server documents none
of it: what these tests hold it to is what `coord.wire.subjects.delivery_ack` is built on.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Message
from coord.runtime import assets
from coord.wire import subjects
from tests.support.waiting import until

SECOND = 1_000_000_000


@pytest.fixture
async def conn(nats_server):
    connection = await Connection.open(NatsConfig(urls=(nats_server.url,)), name="test")
    await topology.apply(connection, topology.load(assets.streams_dir(), "development"))
    yield connection
    await connection.close()


class Queue:
    """One queue consumer of its own capability, and what it delivered."""

    def __init__(self, conn: Connection, ack_wait_s: float) -> None:
        self.conn = conn
        self.capability = f"c{secrets.token_hex(6)}"
        self.name = subjects.queue("acme", self.capability, "normal")
        self.inbox = conn.new_inbox()
        self.ack_wait_s = ack_wait_s
        self.got: list[tuple[int, int]] = []
        """(stream sequence, how often it was delivered)."""

    async def open(self) -> None:
        filter_ = subjects.queue_filter("acme", self.capability, "normal")
        config = {
            "name": self.name, "durable_name": self.name, "ack_policy": "explicit", "filter_subject": filter_,
            "max_deliver": -1, "ack_wait": int(self.ack_wait_s * SECOND), "deliver_policy": "new",
        }  # fmt: skip
        await self.conn.api(
            f"CONSUMER.CREATE.EVENTS.{self.name}.{filter_}", {"stream_name": "EVENTS", "config": config}
        )
        await self.conn.subscribe(self.inbox, self._arrived)

    def _arrived(self, message: Message) -> None:
        if message.reply.startswith("$JS.ACK."):
            place = message.reply.split(".")
            self.got.append((int(place[5]), int(place[4])))

    async def submit(self) -> int:
        id_ = f"t{secrets.token_hex(6)}"
        subject = f"coord.ev.acme.me.{id_}.task.{id_}.submitted.{self.capability}.normal"
        answer = await self.conn.request(subject, b"{}")
        return int(answer.data.split(b'"seq":')[1].split(b",")[0].rstrip(b"}"))

    def pull(self, batch: int = 10) -> None:
        body = b'{"batch":%d,"expires":%d}' % (batch, 100 * SECOND)
        self.conn.publish(f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{self.name}", body, reply=self.inbox)

    def settle(self, seq: int, word: bytes, consumer_seq: int = 0) -> None:
        self.conn.publish(subjects.delivery_ack(self.name, seq, consumer_seq), word)

    async def consumer_seq(self) -> int:
        return int((await self.info())["delivered"]["consumer_seq"])

    async def info(self) -> dict[str, Any]:
        await self.conn.flush()
        return await self.conn.api(f"CONSUMER.INFO.EVENTS.{self.name}")

    async def delivered(self, *seqs: int) -> None:
        await until(lambda: len(self.got) >= len(seqs))
        assert [seq for seq, _ in self.got] == list(seqs)

    async def pending(self, count: int) -> None:
        async def is_so() -> bool:
            return bool((await self.info())["num_ack_pending"] == count)

        await until(is_so)


async def test_an_ack_by_consumer_and_sequence_settles_that_delivery_alone(conn) -> None:
    queue = Queue(conn, ack_wait_s=60)
    await queue.open()
    first, second = await queue.submit(), await queue.submit()
    queue.pull()
    await queue.delivered(first, second)
    other = await Connection.open(conn.config, name="decider")
    try:
        other.publish(subjects.delivery_ack(queue.name, second), b"+ACK")
        await queue.pending(1)
        other.publish(subjects.delivery_ack(queue.name, second), b"+ACK")  # twice is legal
        other.publish(subjects.delivery_ack(queue.name, first), b"+ACK")
        await queue.pending(0)
    finally:
        await other.close()
    assert (await queue.info())["ack_floor"]["stream_seq"] >= second


async def test_a_nak_brings_it_at_once_and_a_delayed_one_later(conn) -> None:
    queue = Queue(conn, ack_wait_s=60)
    await queue.open()
    seq = await queue.submit()
    queue.pull()
    await queue.delivered(seq)
    loop = asyncio.get_running_loop()
    queue.settle(seq, b"-NAK")  # without a consumer sequence it is ignored
    await conn.flush()
    consumer_seq = await queue.consumer_seq()
    began = loop.time()
    queue.settle(seq, b"-NAK", consumer_seq)
    await queue.delivered(seq, seq)
    at_once = loop.time() - began
    began = loop.time()
    queue.settle(seq, b'-NAK {"delay": %d}' % (SECOND // 2), await queue.consumer_seq())
    await queue.delivered(seq, seq, seq)
    assert loop.time() - began >= 0.4
    assert [count for _, count in queue.got] == [1, 2, 3]
    print(f"redelivered after {at_once * 1e3:.1f} ms")


async def test_a_consumer_sequence_read_after_the_delivery_stays_good(conn) -> None:
    """Whatever is delivered, acked and delivered again meanwhile."""
    queue = Queue(conn, ack_wait_s=60)
    await queue.open()
    seqs = [await queue.submit() for _ in range(6)]
    queue.pull(50)
    await queue.delivered(*seqs)
    known = await queue.consumer_seq()
    for seq in seqs[:3] + seqs[4:]:
        queue.settle(seq, b"+ACK")
    more = [await queue.submit() for _ in range(5)]
    await queue.delivered(*seqs, *more)
    for seq in more:
        queue.settle(seq, b"+ACK")
    await queue.pending(1)
    queue.settle(seqs[3], b"-NAK", known)
    await queue.delivered(*seqs, *more, seqs[3])


async def test_work_in_progress_puts_off_the_redelivery(conn) -> None:
    queue = Queue(conn, ack_wait_s=1.0)
    await queue.open()
    seq = await queue.submit()
    queue.pull()
    await queue.delivered(seq)
    loop = asyncio.get_running_loop()
    last = began = loop.time()
    while loop.time() - began < 2.5:
        queue.settle(seq, b"+WPI")
        await conn.flush()
        await asyncio.sleep(0.1)
        if loop.time() - last > 0.8:
            pytest.skip("this machine is too slow to keep a lease of a second")
        last = loop.time()
    assert queue.got == [(seq, 1)]
    await queue.delivered(seq, seq)  # nobody extends it any more


async def test_what_was_not_delivered_cannot_be_settled(conn) -> None:
    """Why a decider that ends a task nobody was given settles it again when it is."""
    queue = Queue(conn, ack_wait_s=60)
    await queue.open()
    seq = await queue.submit()
    queue.settle(seq, b"+ACK")
    await conn.flush()
    queue.pull()
    await queue.delivered(seq)
    await queue.pending(1)
