"""What `Connection.flush` promises, which nats-py's own PING does not keep."""

from __future__ import annotations

import asyncio
import secrets

from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Callback


async def test_after_flush_the_server_knows_the_subscriptions_made_before(nats_server) -> None:
    config = NatsConfig(urls=(nats_server.url,))
    async with await Connection.open(config, name="a") as listener, await Connection.open(config, name="b") as asker:
        for _ in range(100):
            subject = f"flush.{secrets.token_hex(6)}"
            await listener.subscribe(subject, lambda message: listener.publish(message.reply, b"here"))
            await listener.flush()
            answer = await asker.request(subject, timeout_s=20)  # ServiceUnavailable: it was not known yet
            assert answer.data == b"here"


def collector(got: list[bytes]) -> Callback:
    return lambda message: got.append(message.data)


async def test_drain_sends_what_was_published_before(nats_server) -> None:
    config = NatsConfig(urls=(nats_server.url,))
    async with await Connection.open(config, name="a") as listener:
        for size in (1, 100, 3000):
            subject = f"drain.{secrets.token_hex(6)}"
            got: list[bytes] = []
            await listener.subscribe(subject, collector(got))
            await listener.flush()
            conn = await Connection.open(config, name="b")
            for n in range(size):
                conn.publish(subject, b"%d" % n)
            await conn.drain()
            async with asyncio.timeout(60):
                while len(got) < size:
                    await listener.flush()
            assert got == [b"%d" % n for n in range(size)]
