"""The log is a window: it moves by itself while somebody projects, and refuses when nobody does.

The trimmer of DESIGN §3, with windows and ages of a second instead of minutes and hours.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.core import trim
from coord.core.trim import Blocked, TrimConfig
from coord.runtime import assets
from coord.server.trimmer import Trimmer
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire.envelope import Fact
from tests.support.publishing import client, quick
from tests.support.streams import apply_topology
from tests.support.waiting import until
from tests.support.workload import Watcher, Workload, connect, verify

FULL = 10077
ROOM = 1_600
PER_S = 500.0
"""So the log is full in 3.2 s or a little later; a cut takes 0.3 s, which is why it begins early here."""
CONFIG = TrimConfig(begin=0.3, end=0.1, margin_s=0.6, every_s=0.05)
ATTEMPT_S = 60.0
"""The broker knows an id for 200 ms: what it has not answered within that must not be said again."""
HOUR_NS = 3_600 * 10**9
FAR_AHEAD_US = 10**17

StartTrimmer = Callable[..., Awaitable[Trimmer]]


@pytest.fixture
async def broker(start_nats) -> AsyncIterator[Connection]:
    """A broker whose log has room for so many messages."""
    server = await start_nats()
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="operator", wait=True) as conn:
        await apply_topology(conn, EVENTS={"max_msgs": ROOM, "duplicate_window": 200_000_000})
        yield conn


@pytest.fixture
async def trimmer(broker, migrated_database) -> AsyncIterator[StartTrimmer]:
    """`await trimmer(**TrimConfig fields)`: one at work on the broker."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**fields: Any) -> Trimmer:
            made = Trimmer(
                NatsConfig(urls=broker.config.urls),
                DatabaseConfig(url=migrated_database.url, pool_min=0, pool_max=1),
                msgspec.structs.replace(CONFIG, **fields),
                registry=Metrics(CollectorRegistry()),
            )
            await stack.enter_async_context(made)
            return made

        yield start


async def events(conn: Connection) -> dict[str, Any]:
    answer: dict[str, Any] = await conn.api("STREAM.INFO.EVENTS")
    return answer


@contextlib.asynccontextmanager
async def in_step(load: Workload, url: str, conn: Connection) -> AsyncIterator[None]:
    """Publishers give way to a machine that is too slow for their pace: whoever fills the log faster than it can be
    read, or cut, is refused.

    They are never far ahead of the tables, and stop at nine tenths; that production's pace is met is measured in
    tests/soak/window.py.  What neither server says allows nothing more.
    """
    db = await connect(url)

    async def allow() -> None:
        while True:
            with contextlib.suppress(errors.BusError):
                done = await db.fetchval("SELECT min(seq) FROM coord.checkpoint WHERE stream = 'EVENTS'")
                first = (await events(conn))["state"]["first_seq"]
                load.acks_max = min((done or 0) + ROOM // 3, max(first, 1) - 1 + ROOM * 9 // 10)
            await asyncio.sleep(0.02)

    load.acks_max = 0
    allowing = asyncio.create_task(allow())
    try:
        yield
    finally:
        allowing.cancel()
        await asyncio.gather(allowing, return_exceptions=True)
        await db.close()


@pytest.mark.timeout(600)
async def test_one_window_after_another(
    broker, trimmer, migrated_database, projector, rng: random.Random, rounds: int
) -> None:
    """Two trimmers at once: nobody is refused, every fact is a row once, and the age is left as it was."""
    windows = 3 * rounds // 2
    url, nats_url = migrated_database.url, broker.config.urls[0]
    service = await projector(url, nats_url=nats_url, idle_checkpoint_s=0.2)
    both = [await trimmer(), await trimmer()]
    async with (
        Workload(nats_url, rng, kinds=("note",), per_s=PER_S, attempt_s=ATTEMPT_S) as load,
        in_step(load, url, broker),
        Watcher(url, load.tenant),
    ):
        await load.until(windows * ROOM, timeout_s=500)
        await load.stop()
        rows = await verify(url, load)
    assert not load.refusals
    assert not service.metrics.registry.get_sample_value("coord_projection_shed_messages_total", {"stream": "EVENTS"})
    info = await events(broker)
    assert info["state"]["first_seq"] > (windows - 1) * ROOM, "most of it has left"
    await until(lambda: all(t.blocked is None for t in both))
    for one in both:
        await one.drain()
    config = (await events(broker))["config"]
    assert config["max_age"] == HOUR_NS
    assert trim.lowered_until(config) is None
    trims = sum(t.trims for t in both)
    assert trims >= windows
    print(f"{len(rows)} rows, {trims} cuts, {sum(t.left for t in both)} left early")


async def test_nobody_projects(broker, trimmer, migrated_database, projector, rng: random.Random) -> None:
    """The log fills, publishers wait and are told, nothing leaves; with a projector it goes on by itself."""
    url, nats_url = migrated_database.url, broker.config.urls[0]
    watch = await trimmer()
    async with Workload(nats_url, rng, kinds=("note",), per_s=PER_S, attempt_s=ATTEMPT_S) as load:
        await until(lambda: load.refusals[FULL])
        info = await events(broker)
        assert info["state"]["messages"] == ROOM
        assert info["state"]["first_seq"] == 1
        async with client(nats_url, publisher=quick(deadline_s=30, refused_wait_s=0.2)) as c:
            with pytest.raises(errors.StreamFull) as refused:
                await c.publish(Fact(kind="note", id="n", event="said"))
            assert refused.value.details["server_code"] == FULL
            assert refused.value.retryable
        await until(lambda: watch.blocked == Blocked("held", "projector-0"))
        assert watch.health()["blocked"] == "held"

        await projector(url, nats_url=nats_url, idle_checkpoint_s=0.2)
        async with Watcher(url, load.tenant):
            await load.more(ROOM)
            await load.stop()
            await verify(url, load)
    assert set(load.refusals) == {FULL}
    await until(lambda: watch.blocked is None)


async def test_a_lowered_age_is_set_back(broker, trimmer) -> None:
    """A trimmer that died in the middle of a cut: the next one, or `coord stream apply`, ends it."""
    loaded = topology.load(assets.streams_dir(), "development")
    wanted = loaded.with_fields("EVENTS", max_msgs=ROOM, duplicate_window=200_000_000)

    async def die_lowered(until_us: int) -> None:
        config = (await events(broker))["config"]
        lowered = trim.lowered(config, trim.Cut(0, 0), now_us=60_000_000, until_us=until_us)
        await broker.api("STREAM.UPDATE.EVENTS", lowered)

    await die_lowered(FAR_AHEAD_US)
    assert (await events(broker))["config"]["max_age"] == 60 * 10**9
    assert await topology.plan(broker, wanted) == [], "what is meant has not changed"
    assert await topology.apply(broker, wanted) == []
    assert (await events(broker))["config"]["max_age"] == HOUR_NS

    await die_lowered(1)
    await trimmer()

    async def is_back() -> bool:
        config = (await events(broker))["config"]
        return config["max_age"] == HOUR_NS and trim.lowered_until(config) is None

    await until(is_back)


async def test_a_change_of_the_operator_during_a_cut_stays(broker) -> None:
    loaded = topology.load(assets.streams_dir(), "development")
    wanted = loaded.with_fields("EVENTS", max_msgs=2 * ROOM, duplicate_window=200_000_000, max_age=2 * HOUR_NS)
    info = await events(broker)
    lowered = trim.lowered(info["config"], trim.Cut(0, 0), now_us=60_000_000, until_us=FAR_AHEAD_US)
    await broker.api("STREAM.UPDATE.EVENTS", lowered)
    changes = await topology.apply(broker, wanted)
    assert [sorted(c.fields) for c in changes] == [["max_age", "max_msgs"]]
    await broker.api("STREAM.UPDATE.EVENTS", trim.restored((await events(broker))["config"]))
    config = (await events(broker))["config"]
    assert (config["max_age"], config["max_msgs"]) == (2 * HOUR_NS, 2 * ROOM)
