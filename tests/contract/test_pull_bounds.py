"""A pinned reader never has more on its way than it asked for, however slowly it takes.

nats-server follows the last message of a request that names max_bytes with a status of its own
(409 Batch Completed).  Taken for the end of one more request it makes the reader ask for more and
more, until the server drops it as a slow consumer (64 MiB pending).
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coord.bus.connection import Connection, NatsConfig
from coord.bus.pull import PinnedReader
from tests.support.reading import receive

MESSAGES_MAX = 40


@pytest.fixture
async def conn(start_nats):
    server = await start_nats()
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="test") as connection:
        yield connection


async def test_what_is_on_its_way_stays_bounded(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    await conn.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"], "storage": "memory"})
    config = {
        "name": "c", "durable_name": "c", "ack_policy": "all", "max_deliver": -1, "max_ack_pending": 20_000,
        "priority_groups": ["w"], "priority_policy": "pinned_client", "priority_timeout": 3_000_000_000,
    }  # fmt: skip
    await conn.api("CONSUMER.CREATE.S.c", {"stream_name": "S", "config": config})
    for _ in range(2_000):
        conn.publish("s", b"x" * 100)
    await conn.flush()
    asked: list[int] = []
    publish = conn.publish

    def counting(subject: str, body: bytes = b"", **more: Any) -> None:
        if ".MSG.NEXT." in subject:
            asked.append(msgspec.json.decode(body)["batch"])
        publish(subject, body, **more)

    reader = PinnedReader(conn, "S", "c", messages_max=MESSAGES_MAX)
    await reader.wait_pinned()
    monkeypatch.setattr(conn, "publish", counting)
    await reader.start(1)
    taken, worst = 0, 0
    while taken < 1_500:
        taken += len(await receive(reader, 1_000, 1.0))
        worst = max(worst, sum(asked) - taken)
    await reader.close()
    # Two requests of half each, and half that may wait to be taken when a request is made.
    assert 0 < worst <= 1.5 * MESSAGES_MAX
