"""Tiers that processes share, on real servers: found, never old, loaded once by a fleet, and never in the way.

The notices are this test's own words: what a projector says is tests/integration/test_caching.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

import coord
from coord import errors, limits
from coord.bus.connection import Connection, NatsConfig
from coord.bus.tier import StreamTier
from coord.cache import tiers
from coord.client.connect import Coord
from coord.projector.states import broker_time
from coord.wire import headers, notices, subjects, times
from coord.wire.cache_api import ByHand, encode, told_by_hand
from coord.wire.notices import Notice
from tests.support.streams import apply_topology
from tests.support.waiting import until

pytestmark = pytest.mark.slow

P = subjects.partition("n1")
SOURCE = (subjects.EVENTS, P)


class Words:
    """A projector's, without a projector."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.seq = 10
        self.created = ""

    def beats(self) -> None:
        """Which session each partition is in."""
        for stream in (subjects.EVENTS, subjects.TELEMETRY):
            for p in range(limits.PARTITIONS):
                to = self.seq if (stream, p) == SOURCE else 10
                body = Notice(
                    stream=stream, epoch=1, partition=p, session="s", from_=to, to=to, tags=[], created=self.created
                )
                self.conn.publish(subjects.notice(subjects.UNKNOWN, p), notices.encode(body))

    def commit(self) -> None:
        """A fact about the note n1 is in the tables."""
        before, self.seq = self.seq, self.seq + 1
        body = Notice(
            stream=subjects.EVENTS, epoch=1, partition=P, session="s", from_=before, to=self.seq,
            tags=["note:n1", "key:n1", "kind:note"],
        )  # fmt: skip
        self.conn.publish(subjects.notice("acme", P), notices.encode(body))

    def marks(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Of a snapshot of the tables as they are now."""
        return {(subjects.EVENTS, p): (1, self.seq if p == P else 10) for p in range(limits.PARTITIONS)}


@pytest.fixture
def words(conn, monkeypatch: pytest.MonkeyPatch) -> Words:
    # On a busy machine nobody is to be late: what is promised then is tests/unit/test_cache_entries.py's.
    monkeypatch.setattr(limits, "CACHE_TIER_S", 30.0)
    monkeypatch.setattr(limits, "CACHE_LEASE_S", 60.0)
    monkeypatch.setattr(tiers, "_LEASE_TTL_S", 120.0)
    monkeypatch.setattr(tiers, "_ENDED_TTL_S", 60.0)
    return Words(conn)


Join = Callable[..., Awaitable[Coord]]


@pytest.fixture
async def join(nats, words) -> AsyncIterator[Join]:
    """A process more: its connection, its cache, which has heard of every partition."""
    async with AsyncExitStack() as stack:

        async def one(*, l3: bool = False, ask_log: bool = False) -> Coord:
            cache = coord.CacheConfig(l2=not l3, l3=l3, ask_log=ask_log, load_timeout_s=120.0)
            config = coord.ClientConfig(nats=NatsConfig(urls=(nats.url,)), tenant="acme", agent="a1", cache=cache)
            c = await stack.enter_async_context(coord.connect(config))

            @c.cached("opens", tags=["kind:note"])
            async def opens() -> None:
                pass

            await opens()
            evictions = c.cache.evictions

            async def heard() -> bool:
                words.beats()
                await words.conn.flush()
                return evictions.is_vouched and evictions.heard == 2 * limits.PARTITIONS

            await until(heard)
            return c

        yield one


def noting(c: Coord, load: Callable[[str], Awaitable[Any]]) -> Any:
    @c.cached("note:{id}", tags=["note:{id}"], shared=list[int])
    async def note(id: str) -> Any:  # noqa: A002
        return await load(id)

    return note


def outcomes(c: Coord, tier: str = "l2") -> dict[str, int]:
    assert c.cache.tiers is not None
    return c.cache.tiers.outcomes()[tier]


async def test_what_one_process_loaded_another_finds_and_nothing_evicted_comes_back(words, join) -> None:
    loads: list[int] = []

    async def load(_: str) -> coord.Loaded:
        loads.append(words.seq)
        return coord.Loaded([words.seq] * 2_000, words.marks())

    a, b = await join(), await join()
    one, two = noting(a, load), noting(b, load)
    old = await one("n1")
    await until(lambda: outcomes(a).get("stored"))
    assert await two("n1") == old
    assert loads == [10]
    assert outcomes(b) == {"hit": 1}

    words.commit()
    await until(lambda: two.peek("n1") is None)
    assert (await two("n1"))[0] == 11, "evicted in L1, and not read again from L2"
    assert outcomes(b)["evicted"] >= 1
    await until(lambda: outcomes(b).get("stored"))
    await until(lambda: one.peek("n1") is None)
    assert (await one("n1"))[0] == 11
    assert loads == [10, 11]

    late = await join()
    words.commit()
    await until(lambda: late.cache.evictions.required(["note:n1"])[SOURCE] == (1, 12))
    assert (await noting(late, load)("n1"))[0] == 12, "nor by who came later"


@pytest.mark.parametrize("works", [True, False])
async def test_a_fleet_loads_once_and_shares_what_the_loader_raised(words, join, works: bool) -> None:
    fleet = [await join() for _ in range(4)]
    calls: list[str] = []
    goes_on = asyncio.Event()

    async def load(id: str) -> coord.Loaded:  # noqa: A002
        calls.append(id)
        await goes_on.wait()
        if not works:
            raise ValueError("no such table")
        return coord.Loaded([7], words.marks())

    first = asyncio.create_task(noting(fleet[0], load)("n1"))
    await until(lambda: len(calls) == 1)
    others = [asyncio.create_task(noting(c, load)("n1")) for c in fleet[1:]]
    await until(lambda: all(outcomes(c).get("joined") for c in fleet[1:]))
    goes_on.set()
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    if works:
        assert answers == [[7]] * 4
    else:
        assert isinstance(answers[0], ValueError)
        assert {type(answer) for answer in answers[1:]} == {errors.LoadFailedElsewhere}
    assert len(calls) == 1


async def log_created(words: Words) -> str:
    return times.format_time(broker_time((await words.conn.api("STREAM.INFO.EVENTS"))["created"]))


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_the_log_proves_nothing_about_another_one(words, join, is_replaced: bool) -> None:
    words.created = await log_created(words)
    loads: list[int] = []

    async def load(_: str) -> coord.Loaded:
        loads.append(words.seq)
        return coord.Loaded([words.seq], words.marks())

    first = await join(l3=True)
    await noting(first, load)("n1")
    await until(lambda: outcomes(first, "l3").get("stored"))
    for n in range(12):
        await first.publish(coord.Fact(kind="other", id=f"o{n}", event="said"))
    words.seq += 1
    if is_replaced:  # the projector is still in the log that the answer is from, and not in the one that is there now
        words.created = times.format_time(datetime.fromtimestamp(0, UTC))
    second = await join(l3=True, ask_log=True)
    await noting(second, load)("n1")
    assert len(loads) == 1 + is_replaced


async def test_the_log_proves_what_is_from_before_a_process_began(words, join) -> None:
    loads: list[int] = []

    async def load(_: str) -> coord.Loaded:
        loads.append(words.seq)
        return coord.Loaded([words.seq], words.marks())

    words.created = await log_created(words)
    first = await join(l3=True)
    await noting(first, load)("n1")
    await until(lambda: outcomes(first, "l3").get("stored"))
    for n in range(12):
        await first.publish(coord.Fact(kind="other", id=f"o{n}", event="said"))
    words.seq += 1  # the partition has moved on, nobody who comes now knows by what

    unknowing = await join(l3=True)
    await noting(unknowing, load)("n1")
    assert len(loads) == 2
    assert outcomes(unknowing, "l3")["unproven"] >= 1
    await until(lambda: outcomes(unknowing, "l3").get("stored"))
    words.seq += 1

    second = await join(l3=True, ask_log=True)
    assert await noting(second, load)("n1") == [11]
    assert len(loads) == 2, "no fact about it is behind what it has seen"
    await until(lambda: outcomes(second, "l3").get("again"))
    third = await join(l3=True)
    assert await noting(third, load)("n1") == [11], "and whoever does not ask the log believes whoever did"

    await first.publish(coord.Fact(kind="note", id="n1", event="said"))
    words.seq += 1
    fourth = await join(l3=True, ask_log=True)
    assert await noting(fourth, load)("n1") == [13]
    assert outcomes(fourth, "l3")["unproven"] >= 1


@pytest.mark.parametrize("how", ["tag", "all", "key"])
async def test_what_was_evicted_by_hand_is_served_by_nobody_who_comes_later(words, join, monkeypatch, how: str) -> None:
    loads: list[str] = []
    goes_on = asyncio.Event()
    goes_on.set()

    async def load(id: str) -> coord.Loaded:  # noqa: A002
        loads.append(id)
        await goes_on.wait()
        return coord.Loaded([len(loads)], words.marks())

    a, b = await join(), await join()
    a.cache.by_hand.say = None  # the message is lost
    one, two = noting(a, load), noting(b, load)
    await one("n1")
    await until(lambda: outcomes(a).get("stored"))
    goes_on.clear()
    under_way = asyncio.create_task(two("n2"))
    await until(lambda: len(loads) == 2)
    for id_ in ("n1", "n2"):
        {"tag": lambda: a.cache.evict(f"note:{id_}"), "all": a.cache.evict_all, "key": lambda: one.evict(id_)}[how]()  # noqa: B023
    again = asyncio.create_task(one("n1"))
    await until(lambda: len(loads) == 3)
    goes_on.set()
    assert await again == [3], "what is held is a miss"
    assert await under_way == [3]
    await until(lambda: outcomes(a)["stored"] == 2)
    await until(lambda: outcomes(b).get("stored"))
    monkeypatch.setattr(limits, "CACHE_ERAS_S", 0.0)
    late = noting(await join(), load)
    assert await late("n1") == [3], "what was loaded after the eviction is shared"
    assert await late("n2") == [4], "what began to be loaded before it is not, whoever stored it"
    assert len(loads) == 4


async def test_what_was_evicted_by_hand_leaves_other_processes_without_waiting(words, join) -> None:
    loads: list[str] = []

    async def load(id: str) -> coord.Loaded:  # noqa: A002
        loads.append(id)
        return coord.Loaded([len(loads)], words.marks())

    a, b = await join(), await join()
    one, two = noting(a, load), noting(b, load)

    @b.cached("mine:{id}", tags=["note:{id}"])
    async def mine(id: str) -> int:  # noqa: A002
        return len(id)

    await mine("n1")
    ways: list[Callable[[], object]] = [lambda: a.cache.evict("note:n1"), lambda: one.evict("n1"), a.cache.evict_all]
    for n, way in enumerate(ways, 1):
        assert await one("n1") == [n]
        await until(lambda: outcomes(a).get("stored") == n)  # noqa: B023 - awaited here
        assert await two("n1") == [n]
        way()
        await until(lambda: two.peek("n1") is None)
    assert await two("n1") == [4], "nor does it come back from the tier"
    assert mine.peek("n1") is None, "what is not shared has left, too"
    kept = await mine("n2")
    forged = encode(ByHand(by="x", everything=True))
    for reply, said, body in (
        ("", {"Nats-Stream": "EVENTS"}, forged),
        ("_INBOX.x", None, forged),
        ("", None, b'{"seq":7}'),
    ):
        head = None if said is None else headers.encode(said)
        words.conn.publish(told_by_hand("acme"), body, reply=reply, headers=head)
    words.commit()  # about n1
    await until(lambda: two.peek("n1") is None)
    assert mine.peek("n2") == kept, "what the broker answers in somebody's name is no such message"


async def test_a_tier_that_is_gone_costs_nobody_an_answer(conn, words, join) -> None:
    c = await join()

    async def load(_: str) -> coord.Loaded:
        return coord.Loaded([words.seq], words.marks())

    note = noting(c, load)
    await conn.api(f"STREAM.DELETE.{subjects.CACHE_L2}")
    for n in range(20):
        assert await note(f"m{n}") == [10]
    assert outcomes(c)["away"], "nobody asks it any more"
    assert note.peek("m0") == [10], "L1 is as it was"


async def test_what_cannot_be_read_is_dropped_and_counted(conn, words, join) -> None:
    c = await join(l3=True)
    tier = StreamTier(conn, "acme", subjects.CACHE_L3)

    async def load(_: str) -> coord.Loaded:
        return coord.Loaded([words.seq], words.marks())

    note = noting(c, load)
    await note("n1")
    await until(lambda: outcomes(c, "l3").get("stored"))
    name = next(n for n in await names(conn) if not n.endswith("-lease"))
    held = await tier.get(name)
    assert held is not None
    await tier.put(name, held.body[:-3] + b"xyz", ttl_s=60)
    other = await join(l3=True)
    assert await noting(other, load)("n1") == [10]
    assert outcomes(other, "l3")["damaged"] == 1


async def names(conn: Connection) -> list[str]:
    info = await conn.api(f"STREAM.INFO.{subjects.CACHE_L3}", {"subjects_filter": ">"})
    return [subject.rsplit(".", 1)[1] for subject in info["state"]["subjects"]]


async def test_a_full_tier_lets_the_unused_leave(conn) -> None:
    await conn.api(f"STREAM.DELETE.{subjects.CACHE_L2}")
    await apply_topology(conn, CACHE_L2={"max_bytes": 200_000})
    tier = StreamTier(conn, "acme", subjects.CACHE_L2)
    body = bytes(9_000)
    hot = await tier.put("hot", body, ttl_s=60)
    assert hot is not None
    for n in range(60):
        await tier.put(f"n{n}", body, ttl_s=60)
        await tier.look()
        held = await tier.get("hot")
        assert held is not None, n
        if tier.is_aging(held.seq):
            assert await tier.put("hot", body, ttl_s=60, over=held.seq)
            assert await tier.put("hot", b"late", ttl_s=60, over=held.seq) is None
    assert tier.window is not None
    assert tier.window.bytes <= 200_000
    assert await tier.get("n0") is None
    with pytest.raises(errors.MessageTooLarge):
        await tier.put("n1", bytes(1_100_000), ttl_s=60)
