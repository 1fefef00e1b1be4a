"""What the server says of connections that end: presence reads these fields and reasons, and nothing documents them.

`coord.server.presence` takes a connection's name for whose it was, and three reasons for the end of a process.
"""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from coord.bus.connection import Connection, NatsConfig
from coord.ops.devstack.nats import SYSTEM_USER
from tests.support import forking
from tests.support.waiting import until

CLIENT = """
import asyncio, sys
import nats

async def main():
    nc = await nats.connect(sys.argv[1], name="coord:acme:a1:i1")
    await nc.subscribe("test.flood")
    await nc.flush()
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
async def news(nats_server):
    """(when, subject, what) of every connection that begins or ends."""
    found: list[tuple[float, str, Any]] = []
    config = NatsConfig(urls=(nats_server.url,), user=SYSTEM_USER, password=SYSTEM_USER)
    async with await Connection.open(config, name="test-system") as conn:
        for what in ("CONNECT", "DISCONNECT"):
            await conn.subscribe(
                f"$SYS.ACCOUNT.*.{what}", lambda m: found.append((time.monotonic(), m.subject, json.loads(m.data)))
            )
        await conn.flush()
        yield found


def of(news: list[tuple[float, str, Any]], what: str) -> list[tuple[float, Any]]:
    ours = [(at, said) for at, subject, said in news if subject.endswith("." + what)]
    return [(at, said) for at, said in ours if said["client"].get("name") == "coord:acme:a1:i1"]


async def start(url: str) -> forking.Forked:
    process = await forking.python("-c", CLIENT, url)
    assert await process.stdout.readline() == b"up\n"
    return process


async def test_a_killed_process_is_named_at_once(nats_server, news) -> None:
    process = await start(nats_server.url)
    ((_, began),) = await until(lambda: of(news, "CONNECT"))
    killed = time.monotonic()
    process.send_signal(signal.SIGKILL)
    # 2 ms where nothing else runs; by its pings, which are two minutes apart, it would be missed much later.
    ((ended_at, ended),) = await until(lambda: of(news, "DISCONNECT"))
    await process.wait()
    print(f"named {(ended_at - killed) * 1e3:.1f} ms after SIGKILL")
    assert ended["reason"] == "Client Closed"
    assert ended["client"]["id"] == began["client"]["id"]
    assert ended["server"]["id"] == began["server"]["id"]


async def test_a_killed_process_with_unread_data_is_a_read_or_write_error(nats_server, news) -> None:
    process = await start(nats_server.url)
    process.send_signal(signal.SIGSTOP)  # it reads no more
    async with await Connection.open(NatsConfig(urls=(nats_server.url,)), name="flood") as conn:
        for _ in range(100):
            conn.publish("test.flood", b"x" * 100_000)
        await conn.flush()
    process.send_signal(signal.SIGKILL)
    ((_, ended),) = await until(lambda: of(news, "DISCONNECT"))
    await process.wait()
    assert ended["reason"] in {"Client Closed", "Read Error", "Write Error"}


async def test_a_server_that_ends_says_nothing_of_deaths(start_nats) -> None:
    server = await start_nats()
    config = NatsConfig(urls=(server.url,), user=SYSTEM_USER, password=SYSTEM_USER)
    found: list[Any] = []
    async with await Connection.open(config, name="test-system") as conn:
        await conn.subscribe("$SYS.ACCOUNT.*.DISCONNECT", lambda m: found.append(json.loads(m.data)))
        await conn.flush()
        agent = await Connection.open(NatsConfig(urls=(server.url,)), name="coord:acme:a1:i1")
        epoch = conn.epoch
        await server.restart()
        await until(lambda: conn.epoch > epoch)
        await until(lambda: agent.is_connected)
        await agent.close()
    deaths = [f["reason"] for f in found if f["client"].get("name") == "coord:acme:a1:i1"]
    assert set(deaths) <= {"Server Shutdown", "Client Closed"}, deaths
    assert deaths.count("Client Closed") <= 1  # ours, at the end


async def test_who_gives_no_name_is_let_in_and_sees_no_system_account(nats_server) -> None:
    heard: list[Any] = []
    async with await Connection.open(NatsConfig(urls=(nats_server.url,)), name="anybody") as conn:
        await conn.subscribe("$SYS.ACCOUNT.*.CONNECT", heard.append)
        await conn.flush()
        other = await Connection.open(NatsConfig(urls=(nats_server.url,)), name="other")
        await other.flush()
        await conn.flush()
        await other.close()
    assert heard == []
