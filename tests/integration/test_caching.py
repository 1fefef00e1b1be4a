"""Caches on real servers: what is committed evicts, and what cannot be vouched for is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import coord
from coord import limits
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import Coord
from coord.projector.service import ProjectorService
from coord.store.pool import Pool
from tests.support.projecting import projector_service
from tests.support.proxy import Proxy
from tests.support.streams import apply_topology
from tests.support.waiting import until

pytestmark = pytest.mark.slow

StartProjector = Callable[[], Awaitable[ProjectorService]]

SAID = "SELECT data->>'n' FROM coord.event WHERE tenant = 'acme' AND kind = 'note' AND id = $1 ORDER BY epoch, seq, idx"
COUNT = "SELECT count(*) FROM coord.event WHERE tenant = 'acme' AND kind = 'note' AND id = $1"


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats come many times a second."""
    monkeypatch.setattr(limits, "NOTICE_BEAT_S", 0.05)


@pytest.fixture
async def start_projector(
    conn, nats, migrated_database, often
) -> AsyncIterator[Callable[[], Awaitable[ProjectorService]]]:
    started: list[ProjectorService] = []

    async def start() -> ProjectorService:
        service = projector_service(nats.url, migrated_database.url, idle_checkpoint_s=0.1)
        started.append(service)
        await service.start()
        await service.wait_ready(60)
        return service

    yield start
    for service in started:
        await service.drain()
        await service.stop()


def counting(c: Coord, pool: Pool) -> Any:
    """A cached question to the tables: how many facts a note has."""

    @c.cached("count:{id}", tags=["note:{id}"])
    async def count(id: str) -> coord.Loaded:  # noqa: A002
        async with coord.reading(pool) as seen:
            return coord.Loaded(await seen.conn.fetchval(COUNT, id), seen.marks)

    return count


async def vouched(c: Coord) -> None:
    """Notices are known to arrive, of every partition: nothing is dropped any more because a first word comes."""
    await until(lambda: c.cache.evictions.is_vouched)
    await until(lambda: c.cache.evictions.heard == 2 * limits.PARTITIONS)


def note(id: str, n: int = 0) -> coord.Fact:  # noqa: A002
    return coord.Fact(kind="note", id=id, event="said", data={"n": n})


async def test_what_is_committed_evicts_and_what_is_not_touched_stays(nats, pool, start_projector) -> None:
    await start_projector()
    async with coord.connect(nats.url, tenant="acme", agent="a1") as c:
        count = counting(c, pool)
        assert (await count("n1"), await count("n2")) == (0, 0)
        await vouched(c)
        assert (await count("n1"), await count("n2")) == (0, 0)
        assert (count.peek("n1"), count.peek("n2")) == (0, 0)
        for n in range(1, 4):
            ack = await c.publish(note("n1", n))
            assert await count("n1", min_watermark=coord.Watermark("n1", ack.seq)) == n  # reads its own write
            assert await count("n1") == n
        assert count.peek("n2") == 0
        assert c.cache.stats().dropped["notice"] >= 2
        assert c.cache.stats().hits


async def test_an_answer_is_never_older_than_the_last_fact_whose_notice_came(nats, pool, start_projector) -> None:
    """Readers all the time, while facts come: once a notice with the fact was heard nobody gets an older answer."""
    await start_projector()
    async with coord.connect(nats.url, tenant="acme", agent="a1") as c:
        count = counting(c, pool)
        await count("n1")
        await vouched(c)
        committed = 0
        stop = False

        async def read() -> int:
            asked = 0
            while not stop:
                least = committed
                assert await count("n1") >= least
                asked += 1
                await asyncio.sleep(0)
            return asked

        readers = [asyncio.create_task(read()) for _ in range(4)]
        for n in range(1, 41):
            ack = await c.publish(note("n1", n))
            await until(lambda: c.cache.evictions.is_reached(coord.Watermark("n1", ack.seq)))  # noqa: B023 - awaited here
            committed = n
        stop = True
        print(f"{sum(await asyncio.gather(*readers))} answers, {c.cache.stats()}")


async def test_facts_move_an_answer_on_and_nothing_is_loaded_again(nats, pool, start_projector) -> None:
    await start_projector()
    async with coord.connect(nats.url, tenant="acme", agent="a1") as c:
        loaded: list[tuple[str, ...]] = []

        @c.cached("said:{id}", tags=["note:{id}"], moved_by=lambda said, fact: (*said, str(fact.data["n"])))
        async def said(id: str) -> coord.Loaded:  # noqa: A002
            async with coord.reading(pool) as seen:
                loaded.append(tuple([row[0] for row in await seen.conn.fetch(SAID, id)]))
                return coord.Loaded(loaded[-1], seen.marks)

        await said("n1")
        await vouched(c)
        async with asyncio.timeout(60):
            while not c.cache.stats().moved.get("moved"):  # until it was loaded from a snapshot that can be placed
                ack = await c.publish(note("n1", 0))
                await said("n1", min_watermark=coord.Watermark("n1", ack.seq))
        before: tuple[str, ...] = await said("n1")
        answer, loads = before, len(loaded)
        for n in range(1, 9):
            acks = [await c.publish(note(id_, n)) for id_ in ("n1", "n2", "n1")]
            answer = await said("n1", min_watermark=coord.Watermark("n1", acks[-1].seq))
            assert answer == before + tuple(str(1 + i // 2) for i in range(2 * n))
        print(c.cache.stats(), len(loaded), loads)
        if len(loaded) == loads:
            assert c.cache.stats().moved["moved"] >= 17
        said.evict("n1")
        assert await said("n1") == answer, "what a load brings is the same"


async def test_a_broken_connection_drops_what_has_tags(conn, nats, pool, start_projector) -> None:
    await start_projector()
    async with Proxy("127.0.0.1", nats.port) as proxy, coord.connect(proxy.url, tenant="acme", agent="a1") as c:
        count = counting(c, pool)

        @c.cached("plain:{id}")
        async def plain(id: str) -> str:  # noqa: A002
            return id

        await plain("p")
        await count("n1")
        await vouched(c)
        assert await count("n1") == 0
        proxy.refuse()
        proxy.cut()
        await until(lambda: count.peek("n1", default="none") == "none")
        assert plain.peek("p") == "p"
        async with coord.connect(nats.url, tenant="acme", agent="a2") as other:
            await other.publish(note("n1"))
        await until(lambda: pool_count(pool, "n1"))
        assert await count("n1") == 1, "the database still answers, and nothing old is here"
        assert count.peek("n1") is None, "without notices nothing is kept"
        proxy.resume()
        await vouched(c)
        assert await count("n1") == 1
        assert count.peek("n1") == 1


async def pool_count(pool: Pool, id: str) -> int:  # noqa: A002
    async with pool.acquire() as conn:
        return int(await conn.fetchval(COUNT, id))


async def test_another_projector_means_that_notices_may_be_lost(nats, pool, start_projector) -> None:
    first = await start_projector()
    async with coord.connect(nats.url, tenant="acme", agent="a1") as c:
        count = counting(c, pool)
        await count("n1")
        await vouched(c)
        await count("n1")
        assert count.peek("n1") == 0
        await first.drain()
        await first.stop()
        await start_projector()
        await until(lambda: count.peek("n1") is None)
        assert c.cache.stats().dropped["session"]


async def test_nothing_is_kept_while_nobody_says_that_notices_arrive(conn, nats, pool) -> None:
    async with coord.connect(nats.url, tenant="acme", agent="a1") as c:
        count = counting(c, pool)
        for _ in range(3):
            assert await count("n1") == 0
        await c.connection.flush()
        assert await count("n1") == 0
        assert count.peek("n1") is None
        assert c.cache.stats().refused["unvouched"] == 4


PERMISSIONS = """
authorization { users: [
  { user: boss, password: boss }
  { user: deaf, password: deaf, permissions: { subscribe: { deny: "coord.notice.>" } } }
] }
"""


async def test_who_may_not_hear_notices_keeps_nothing_with_tags(start_nats, pool) -> None:
    server = await start_nats(extra=PERMISSIONS)
    boss, deaf = (NatsConfig(urls=(server.url,), user=name, password=name) for name in ("boss", "deaf"))
    async with await Connection.open(boss, name="boss") as conn:
        await apply_topology(conn)
        async with coord.connect(deaf, tenant="acme", agent="a1") as c:
            count = counting(c, pool)
            denied: list[str] = []
            c.connection.on_permission_denied(denied.append)
            await count("n1")
            await until(lambda: len(denied) == 2)
            await c.connection.flush()
            assert not c.cache.evictions.is_vouched
            assert await count("n1") == 0
            assert count.peek("n1") is None
