"""What a cache answers when it is asked, and what it leaves unanswered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus.patched import Message
from coord.cache.functions import Functions
from coord.cache.loading import Cache
from coord.cache.showing import Showing
from coord.ops import caches
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.cache_api import CacheAnswer, CacheAsk, CacheStats, Evictor, HeldEntry, encode, read_answer
from tests.support.waiting import until


class Line:
    """A connection that remembers what is said, and may refuse."""

    is_clustered = False

    def __init__(self) -> None:
        self.said: list[tuple[str, CacheAnswer]] = []
        self.heard: Callable[..., None] | None = None
        self.subject = ""
        self.unsubscribed = 0
        self.lets = asyncio.Event()
        self.lets.set()
        self.fails = False

    async def subscribe_bytes(self, subject: str, receiver: Callable[..., None]) -> Line:
        await self.lets.wait()
        if self.fails:
            self.fails = False
            raise errors.NotConnected
        self.subject, self.heard = subject, receiver
        return self

    async def unsubscribe(self) -> None:
        self.unsubscribed += 1

    def publish(self, subject: str, body: bytes) -> None:
        if self.fails:
            self.fails = False
            raise errors.NotConnected
        self.said.append((subject, read_answer(body)))

    def ask(self, **asked: Any) -> None:
        assert self.heard is not None
        self.heard(b"", b"", b"", encode(CacheAsk(**{"asker": "op", "what": "get"} | asked)))


@pytest.fixture
async def shown() -> AsyncIterator[tuple[Line, Cache, Showing]]:
    line, cache = Line(), Cache(metrics=Metrics(CollectorRegistry()))
    showing = Showing(line, cache, "acme", "a1", "i1")  # type: ignore[arg-type]  # as much of a connection as it uses
    showing.start()
    await until(lambda: line.heard)
    yield line, cache, showing
    await showing.close()
    await cache.close()


async def test_it_answers_where_its_agent_may_and_only_what_it_is_asked(shown) -> None:
    line, cache, showing = shown
    assert line.subject == "coord.ask.acme._.cache"
    for name in ("x", "y", "z"):
        cache.l1.keep(("page:{name}", name), "v" * 1_000, ttl_s=60, tags=("all", f"page:{name}"))
    cache.l1.keep(object(), 1, ttl_s=None)
    line.ask(agent="a2")
    line.ask(instance="i2")
    for bad in (b"", b"{}", b"[1]", b"\xff", b'{"asker":"*","what":"get"}', b'{"asker":"op","what":"drop"}'):
        line.heard(b"", b"", b"", bad)
    line.ask(keys="x" * (limits.CACHE_KEY_BYTES_MAX + 1))
    forged = encode(CacheAsk(asker="op", what="evict", everything=True))
    line.heard(b"", b"reply", b"", forged)
    line.heard(b"", b"", b"NATS/1.0\r\n\r\n", forged)
    assert showing.ignored == 9
    line.ask(keys="page:*", limit=2, values=True)
    line.ask(tags=("page:y",))
    line.ask(what="evict", tags=("all",))
    line.ask(limit=-1)
    await until(lambda: len(line.said) == 4)
    two, one, gone, left = (answer for _, answer in line.said)
    assert {subject for subject, _ in line.said} == {"coord.answer.acme.a1.op"}
    assert (len(two.entries), two.more, len(two.entries[0].value)) == (2, True, limits.CACHE_SHOWN_CHARS)
    assert [(entry.key, entry.tags) for entry in one.entries] == [("page:y", ("all", "page:y"))]
    assert gone.gone == 3
    assert [(entry.key[:7], entry.fresh_s) for entry in left.entries] == [("<object", None)]


async def test_what_is_on_its_way_while_its_key_is_evicted_is_not_kept(shown) -> None:
    line, cache, _ = shown
    goes_on = asyncio.Event()

    @Functions(cache).cached("page:{name}")
    async def page(name: str) -> str:
        await goes_on.wait()
        return name

    asking = asyncio.create_task(page("x"))
    await until(lambda: cache.sampling.keys.top(cache.monotonic()))
    line.ask(what="evict", keys="page:*")
    await until(lambda: line.said)
    goes_on.set()
    assert await asking == "x"
    assert page.peek("x") is None


async def test_a_flood_of_questions_is_not_queued_for_ever_and_a_lost_answer_ends_nothing(shown) -> None:
    line, _, showing = shown
    for _ in range(limits.CACHE_ASKS_MAX + 5):
        line.ask(what="stats")
    assert showing.ignored == 5
    await until(lambda: len(line.said) == limits.CACHE_ASKS_MAX)
    line.fails = True
    line.ask(what="top")
    await until(lambda: not line.fails)
    line.ask(what="top")
    await until(lambda: len(line.said) == limits.CACHE_ASKS_MAX + 1)


class Loud:
    def __repr__(self) -> str:
        raise ValueError("no")


async def test_a_value_that_cannot_be_shown_is_said_to_be_one(shown) -> None:
    line, cache, _ = shown
    cache.l1.keep("loud", Loud(), ttl_s=60)
    line.ask(values=True)
    await until(lambda: line.said)
    assert "Loud" in line.said[0][1].entries[0].value


async def test_what_is_closed_while_it_begins_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECONNECT_WAIT_S", 0.001)
    line, cache = Line(), Cache(metrics=Metrics(CollectorRegistry()))
    line.fails = True
    showing = Showing(line, cache, "acme", "a1", "i1")  # type: ignore[arg-type]  # as above
    showing.start()
    await until(lambda: line.heard), "it tries again"
    await showing.close()
    assert line.unsubscribed == 1
    line.lets.clear()
    showing.start()
    await asyncio.sleep(0)
    closing = asyncio.create_task(showing.close())
    await asyncio.sleep(0)
    line.lets.set()
    await closing
    assert line.unsubscribed == 2
    await cache.close()


class Asked(Line):
    """A broker on which others answer, truly or not."""

    async def subscribe(self, subject: str, callback: Callable[..., None]) -> Line:
        self.subject, self.heard = subject, callback
        return self

    async def flush(self) -> None:
        """All of it is there."""

    def publish(self, subject: str, body: bytes) -> None:
        assert subject == subjects.ask("acme", subjects.UNKNOWN, "cache")
        asker = msgspec.json.decode(body)["asker"]
        assert self.subject == f"coord.answer.acme.*.{asker}"
        forged = encode(CacheAnswer(agent="a4", instance="i"))
        self.heard(_message(subjects.answer("acme", "a4", asker), forged, "reply"))  # type: ignore[misc]
        read = b"NATS/1.0\r\nNats-Stream: EVENTS\r\nNats-Request-Info: {}\r\n\r\n"
        for broker in (read, b"NATS/1.0\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"odd"):
            self.heard(_message(subjects.answer("acme", "a4", asker), forged, "", broker))  # type: ignore[misc]
        for agent, instance, says in (("a2", "i", "a2"), ("a1", "i", "a2"), ("a1", "i", "a1"), ("a2", "i", "a2")):
            answer = encode(CacheAnswer(agent=says, instance=instance, gone=len(agent)))
            imported = b"NATS/1.0\r\nNats-Request-Info: {}\r\n\r\n" if agent == "a1" else None
            self.heard(_message(subjects.answer("acme", agent, asker), answer, "", imported))  # type: ignore[misc]
        self.heard(_message(subjects.answer("acme", "a3", asker), b"no"))  # type: ignore[misc]


def _message(subject: str, data: bytes, reply: str = "", raw_headers: bytes | None = None) -> Message:
    return Message(subject, reply, data, raw_headers)


async def test_nobody_answers_for_another_and_nobody_twice() -> None:
    conn: Any = Asked()
    answers = await caches.ask(conn, "acme", CacheAsk(asker="", what="stats"), wait_s=60, processes=2)
    assert [(answer.agent, answer.instance) for answer in answers] == [("a1", "i"), ("a2", "i")]
    assert conn.unsubscribed == 1


def test_answers_of_many_are_put_together() -> None:
    stats = CacheStats(
        hits=3, misses=1, stale=0, joined=0, loads=1, load_errors=0, kept=2, bytes=10, bytes_max=20,
        dropped={"notice": 1}, refused={}, notices=4, gaps=0,
    )  # fmt: skip
    below = msgspec.structs.replace(stats, tier="l2", hits=1, misses=0, dropped={}, outcomes={"hit": 1})
    one = CacheAnswer(
        agent="a1", instance="i", tiers=(stats, below), entries=(HeldEntry(key="k", reads=2.0, bytes=5, age_s=1.0),),
        evictors=(Evictor(tag="t", entries=2),),
    )  # fmt: skip
    two = CacheAnswer(
        agent="a2", instance="j", tiers=(msgspec.structs.replace(stats, dropped={"full": 2}),),
        entries=(HeldEntry(key="k", reads=1.0), HeldEntry(key="m", reads=9.0, bytes=7)),
        evictors=(Evictor(tag="t", entries=1), Evictor(tag="u", entries=4)),
    )  # fmt: skip
    l1, l2 = caches.total_rows([one, two])
    assert (l1["processes"], l1["hits"], l1["hit_rate"], l1["target"]) == (2, 6, 0.75, 0.8)
    assert l1["dropped"] == {"notice": 1, "full": 2}
    assert (l2["tier"], l2["processes"], l2["hit_rate"], l2["target"]) == ("l2", 1, 1.0, 0.6)
    assert [row["tier"] for row in caches.stats_rows([one, two])] == ["l1", "l2", "l1"]
    assert caches.key_rows([one, two], 5) == [
        {"key": "m", "reads": 9.0, "processes": 1, "held": {"l1": 1}, "bytes": 7, "age_s": None},
        {"key": "k", "reads": 3.0, "processes": 2, "held": {"l1": 1}, "bytes": 5, "age_s": 1.0},
    ]
    assert [(row["tag"], row["entries"]) for row in caches.evictor_rows([one, two], 5)] == [("u", 4), ("t", 3)]
    assert caches.key_rows([one, two], 1)[0]["key"] == "m"
