"""A pinned reader's session: whose silence ends it, and that nobody's reset may skip a message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coord import errors
from coord.bus import pull
from coord.bus.connection import Connection, NatsConfig
from coord.bus.pull import PinnedReader
from tests.support.reading import receive


@pytest.fixture
async def conn(start_nats):
    server = await start_nats()
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="test") as connection:
        await connection.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"], "storage": "memory"})
        config = {
            "name": "c", "durable_name": "c", "ack_policy": "all", "max_deliver": -1, "max_ack_pending": 20_000,
            "priority_groups": ["w"], "priority_policy": "pinned_client", "priority_timeout": 3_000_000_000,
        }  # fmt: skip
        await connection.api("CONSUMER.CREATE.S.c", {"stream_name": "S", "config": config})
        for _ in range(20):
            await connection.request("s", b"x")
        yield connection


async def test_a_buffer_that_was_full_for_long_is_no_silence_of_the_server(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a commit takes long nothing is asked for, and nothing comes."""
    monkeypatch.setattr(pull, "SILENCE_S", 0.05)
    loop = asyncio.get_running_loop()
    reader = PinnedReader(conn, "S", "c", messages_max=4)
    await reader.wait_pinned()
    await reader.start(1)
    async with asyncio.timeout(60):
        while reader._outstanding or reader.is_empty:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        began = loop.time()
        while loop.time() - began < 0.1:  # noqa: ASYNC110 - nothing is outstanding: the server has nothing to say
            await asyncio.sleep(0.02)
    committed: asyncio.Future[None] = loop.create_future()
    committed.set_result(None)
    assert reader.take(100)
    assert await receive(reader, 100, 1.0, unless=committed) == []
    await reader.close()


async def test_a_rouse_from_a_checkpoint_that_the_database_lost_skips_nothing(conn: Connection) -> None:
    """A standby saw checkpoint 9, the database crashed back to 4, another was pinned and began at 5.

    The standby's reset, decided before, arrives between that one's reset and its first delivery.
    """
    first, second = PinnedReader(conn, "S", "c"), PinnedReader(conn, "S", "c")
    await first.wait_pinned()
    await first.start(1)
    async with asyncio.timeout(60):
        while not await receive(first, 100, 1.0):
            pass
    await first.close()
    waiting = asyncio.create_task(second.wait_pinned())
    api = conn.api

    async def late(request: str, payload: object = None, **more: Any) -> dict[str, object]:
        answer = await api(request, payload, **more)
        if request == "CONSUMER.RESET.S.c" and payload == {"seq": 5}:
            await resets.get_nowait()()
        return answer

    async with asyncio.timeout(60):
        # What the standby decides to send, when nobody is pinned.
        resets: asyncio.Queue[Any] = asyncio.Queue()
        while any(  # noqa: ASYNC110
            g.get("pinned_client_id") for g in (await api("CONSUMER.INFO.S.c"))["priority_groups"] or ()
        ):
            await asyncio.sleep(0.02)
        sent = []

        async def record(request: str, payload: object = None, **more: Any) -> dict[str, object]:
            if ".RESET." in request:
                sent.append((request, payload))
                return {}
            return await api(request, payload, **more)

        conn.api = record  # type: ignore[method-assign]
        assert await first.rouse(9)
        await api("CONSUMER.RESET.S.c", {"seq": 1})  # somebody rouses the consumer for real
        await waiting
        resets.put_nowait(lambda: api(*sent[0]))
        conn.api = late  # type: ignore[method-assign]
        await second.start(5)
        got: list[Any] = []
        try:
            while not got:
                got = await receive(second, 100, 1.0)
        except errors.DeliveryGap:
            pass  # noticed: the session begins anew
        else:
            assert got[0].seq == 5
    conn.api = api  # type: ignore[method-assign]
    await second.close()
