"""A network that cuts, tears and stalls between the projector and its two servers."""

from __future__ import annotations

import asyncio
import random
from urllib.parse import urlsplit

import pytest

from coord.bus.connection import NatsConfig
from tests.conftest import soak_rounds
from tests.support.proxy import Direction, Proxy
from tests.support.workload import Watcher, Workload, verify

IMPATIENT = {
    "statement_timeout_s": 10.0,
    "idle_in_transaction_s": 10.0,
    "connect_timeout_s": 10.0,
    "health_timeout_s": 5.0,
    "health_after_s": 1.0,
    "idle_s": 60.0,
}
"""A database that does not answer is given up within a test's patience; one on a busy machine is not."""


async def trouble(line: Proxy, rng: random.Random, load: Workload) -> str:
    """One thing that networks do; it may last beyond this call, until `line.resume()`."""
    kind = rng.choice(["cut", "tear up", "tear down", "stall", "stall up", "stall down", "refuse", "crawl", "delay"])
    if kind == "cut":
        line.cut()
    elif kind.startswith("tear"):
        line.cut_after("up" if kind.endswith("up") else "down", rng.randrange(1, 20_000))
        await load.more(100)
    elif kind.startswith("stall"):
        directions: tuple[Direction, ...] = ("up", "down")
        line.stall(*(d for d in directions if d in kind or kind == "stall"))
        await load.more(rng.randrange(50, 1500))
        line.cut() if rng.random() < 0.3 else None
    elif kind == "refuse":
        line.refuse()
        line.cut()
        await load.more(rng.randrange(50, 600))
    elif kind == "crawl":
        line.piece_bytes = rng.choice([1, 3, 100])
        await load.more(60)
    else:
        line.delay_s = 0.05
        await load.more(60)
    line.piece_bytes, line.delay_s = 65536, 0.0
    line.resume()
    return kind


@pytest.mark.parametrize("which", ["broker", "database", "both"])
async def test_the_line_is_bad(nats, migrated_database, projector, rng: random.Random, which: str) -> None:
    url = migrated_database.url
    database = urlsplit(url)
    async with (
        Proxy("127.0.0.1", nats.port) as to_nats,
        Proxy(database.hostname or "", database.port or 0) as to_database,
    ):
        await projector(to_database.in_front_of(url), nats_url=to_nats.url, database=IMPATIENT)
        lines = {"broker": [to_nats], "database": [to_database], "both": [to_nats, to_database]}[which]
        happened = []
        async with Workload(nats.url, rng, per_s=800) as load, Watcher(url, load.tenant):
            for _ in range(soak_rounds(4)):
                await load.more(rng.randrange(20, 200))
                happened += await asyncio.gather(*(trouble(line, rng, load) for line in lines))
            await load.stop()
            rows = await verify(url, load)
    print(f"{which}: {happened}; {len(rows)} rows, {load.acks} messages, {to_nats.connections} broker connections")


async def test_a_stalled_broker_is_noticed_by_itself(nats, migrated_database, projector, rng: random.Random) -> None:
    """No reset, no end of file, nothing: the connection is replaced because it answers no ping."""
    assert NatsConfig().ping_interval_s * 3 <= 30, "production notices a dead line within half a minute"
    url = migrated_database.url
    async with Proxy("127.0.0.1", nats.port) as line:
        service = await projector(url, nats_url=line.url)
        async with Workload(nats.url, rng, per_s=500) as load:
            await load.more(100)
            before = line.connections
            line.stall()
            async with asyncio.timeout(100):
                while line.connections == before:  # noqa: ASYNC110 - the proxy has no event for it
                    await asyncio.sleep(0.05)
            assert not service.ready
            line.cut()
            line.resume()
            await load.stop()
            await verify(url, load)
