"""What moves an answer on and what evicts it: one case each; tests/property/test_moving_model.py has their mixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.cache.config import CacheConfig
from coord.cache.functions import Functions
from coord.cache.loading import Cache, Loaded
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice
from coord.wire.records import StoredFact

P = subjects.partition("k")


class Log:
    """What is stated, and a cache that hears of it."""

    def __init__(self, cache: Cache, epoch: int = 1) -> None:
        self.cache = cache
        self.epoch = epoch
        self.said: list[int] = []
        self.seq = 0
        self.loads = 0

    def beats(self) -> None:
        for p in range(limits.PARTITIONS):
            at = self.seq if p == P else 0
            beat = Notice(
                stream="EVENTS", epoch=self.epoch, partition=p, session=f"s{self.epoch}", from_=at, to=at, tags=[]
            )
            self.cache.hear_beat(notices.encode(beat))

    def live(self, body: bytes | None = None) -> None:
        """The next fact, as it is republished."""
        seq = self.seq + 1
        subject = subjects.FactSubject("t", "me", "k", "note", "n", "said")
        headers = (
            f"NATS/1.0\r\nNats-Stream: EVENTS\r\nNats-Subject: {subject.stored}\r\nNats-Sequence: {seq}\r\n"
            f"Nats-Time-Stamp: 2026-01-0{self.epoch}T00:00:00Z\r\nNats-Last-Sequence: 0\r\n\r\n"
        )
        said = b"%d" % (100 * self.epoch + seq) if body is None else body
        self.cache.hear_fact(subject.live.encode(), headers.encode(), said)

    def commit(self, *, named: bool = True, count: int = 1) -> None:
        """It is stored, and told of."""
        before, self.seq = self.seq, self.seq + 1
        self.said.append(100 * self.epoch + self.seq)
        tags = ["key:k", "kind:note", "note:n"]
        facts = notices.said([(self.seq, count, tuple(tags))], tags) if named else notices.UNSAID
        notice = Notice(
            stream="EVENTS", epoch=self.epoch, partition=P, session=f"s{self.epoch}", from_=before, to=self.seq,
            tags=tags, facts=facts,
        )  # fmt: skip
        self.cache.hear(notices.encode(notice))

    def state(self) -> None:
        self.live()
        self.commit()

    async def load(self) -> Loaded:
        self.loads += 1
        marks = {("EVENTS", p): (self.epoch, 0) for p in range(limits.PARTITIONS)}
        return Loaded(tuple(self.said), marks | {("EVENTS", P): (self.epoch, self.seq)})


def add(said: tuple[int, ...], fact: StoredFact) -> tuple[int, ...]:
    return (*said, fact.data)


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    made = Cache(CacheConfig(jitter=0.0), metrics=Metrics(CollectorRegistry()))
    yield made
    await made.close()


@pytest.fixture
def log(cache: Cache) -> Log:
    cache.connected()
    made = Log(cache)
    made.beats()
    return made


def answering(cache: Cache, log: Log, step: Callable[..., Any] = add, **options: Any) -> Any:
    @Functions(cache).cached("note", tags=["note:n"], moved_by=step, **options)
    async def note() -> Loaded:
        return await log.load()

    return note


async def test_a_fact_moves_an_answer_on(cache: Cache, log: Log) -> None:
    note = answering(cache, log, returns=tuple)
    assert await note() == ()
    for _ in range(3):
        log.state()
    assert cache.stats().moved == {}, "not before somebody asks"
    assert note.peek() == (101, 102, 103)
    log.state()
    assert await note() == (101, 102, 103, 104)
    assert (log.loads, cache.stats().moved, cache.stats().dropped) == (1, {"moved": 4}, {})


@pytest.mark.parametrize(
    ("why", "how"),
    [
        ("unheard", lambda log: log.commit()),
        ("unnamed", lambda log: (log.live(), log.commit(named=False))),
        ("unreadable", lambda log: (log.live(b"{"), log.commit())),
        ("unreadable", lambda log: (log.live(), log.commit(count=2))),
        ("unread", lambda log: [log.state() for _ in range(limits.CACHE_MOVE_DUE_MAX + 1)]),
    ],
)
async def test_what_is_doubtful_evicts(cache: Cache, log: Log, why: str, how: Callable[[Log], Any]) -> None:
    note = answering(cache, log)
    await note()
    how(log)
    assert note.peek() is None
    assert await note() == tuple(log.said)
    assert (log.loads, cache.stats().moved) == (2, {why: 1})
    assert cache.stats().dropped == {"notice": 1}


def raises(_said: Any, _fact: StoredFact) -> Any:
    raise ValueError


@pytest.mark.parametrize(
    ("why", "step"),
    [
        ("raised", raises),
        ("nothing", lambda _said, _fact: None),
        ("wrong_type", lambda _said, _fact: "text"),
        ("too_large", lambda _said, _fact: ("x" * limits.CACHE_L1_BYTES,)),
    ],
)
async def test_a_step_that_fails_evicts(cache: Cache, log: Log, why: str, step: Callable[..., Any]) -> None:
    note = answering(cache, log, step, returns=tuple)
    await note()
    log.state()
    assert await note() == (101,)
    assert (log.loads, cache.stats().moved) == (2, {why: 1})


async def test_a_snapshot_that_has_the_fact_is_left_as_it_is(cache: Cache, log: Log) -> None:
    note = answering(cache, log)
    log.said.append(101)
    log.seq = 1
    await note()  # the tables are ahead of the notice
    log.said.clear()
    log.seq = 0
    log.state()
    assert note.peek() == (101,)
    assert cache.stats().moved == {"spared": 1}


async def test_a_load_that_was_overtaken_is_moved_on_as_it_ends(cache: Cache, log: Log) -> None:
    @Functions(cache).cached("note", tags=["note:n"], moved_by=add)
    async def note() -> Loaded:
        loaded = await log.load()
        log.state()
        return loaded

    assert await note() == ()
    assert note.peek() == (101,)
    assert cache.stats().refused == {}


async def test_without_marks_nothing_is_moved(cache: Cache, log: Log) -> None:
    @Functions(cache).cached("note", tags=["note:n"], moved_by=add)
    async def note() -> tuple[int, ...]:
        return tuple(log.said)

    await note()
    log.state()
    assert note.peek() is None
    assert cache.stats().moved == {"unplaced": 1}


async def test_a_log_that_is_made_anew_is_not_taken_for_the_old_one(cache: Cache, log: Log) -> None:
    note = answering(cache, log)
    await note()
    log.live()  # of the old one, never committed
    new = Log(cache, epoch=2)
    new.beats()
    other = Functions(cache)

    @other.cached("other", tags=["note:n"], moved_by=add)
    async def again() -> Loaded:
        return await new.load()

    assert await again() == ()
    new.commit()  # of the same sequence, and not heard
    assert again.peek() is None
    assert cache.stats().moved["unheard"] == 1


async def test_what_was_evicted_by_hand_while_it_was_loaded_is_not_kept(cache: Cache, log: Log) -> None:
    @Functions(cache).cached("note", tags=["note:n"], moved_by=add)
    async def note() -> Loaded:
        cache.evict("note:n")
        return await log.load()

    await note()
    assert note.peek() is None


async def test_what_nobody_asks_for_makes_room(cache: Cache, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_DUE_S", 0.0)
    note = answering(cache, log)
    await note()
    log.state()
    value = b"x" * (cache.l1.value_bytes_max - 8192)
    for n in range(5):
        cache.l1.keep(n, value, ttl_s=None)
    assert cache.l1.look(note.key()) is None
    assert cache.stats().dropped["full"] >= 1
    assert cache.l1.bytes <= cache.l1.bytes_max


async def test_what_is_heard_is_bounded(cache: Cache, log: Log) -> None:
    answering(cache, log)
    moves = cache.moving.moves
    for n in range(200):
        log.live(b'"%s"' % (b"x" * 10_000))
        log.seq = n
    assert 0 < moves.bytes <= cache.l1.bytes_max * limits.CACHE_MOVE_SHARE
    cache.disconnected()
    assert moves.bytes == 0


@pytest.mark.parametrize(
    ("tags", "options"),
    [
        ((), {}),
        (("key:{id}",), {}),
        (("note:{id}",), {"hears": "note"}),
        (("note:{id}",), {"hears": ["no token"]}),
        (("note:{id}",), {"hears": [f"k{n}" for n in range(limits.CACHE_MOVE_KINDS_MAX + 1)]}),
    ],
)
def test_what_cannot_be_heard_is_refused(cache: Cache, tags: tuple[str, ...], options: dict[str, Any]) -> None:
    with pytest.raises((errors.InvalidCacheKey, errors.InvalidToken)):
        Functions(cache).cached("f {id}", tags=tags, moved_by=add, **options)(_anything)


async def _anything(id: str) -> str:  # noqa: A002
    return id


async def _step(said: Any, fact: StoredFact) -> Any:
    return said


def test_an_async_step_is_refused(cache: Cache) -> None:
    with pytest.raises(errors.InvalidCacheKey, match="async"):
        Functions(cache).cached("f {id}", tags=["note:{id}"], moved_by=_step)(_anything)


def test_kinds_are_those_of_the_tags() -> None:
    rules: dict[str, tuple[str, ...]] = {"task.*": ("board",), "*.x": ("page:{id}",)}
    functions = Functions(Cache(CacheConfig(tags=rules), metrics=Metrics(CollectorRegistry())))

    def heard(*tags: str, hears: tuple[str, ...] = ()) -> set[str]:
        functions.hears.clear()
        name = "-".join((*tags, *hears)).replace("{", "").replace("}", "")
        functions.cached(f"{name} {{id}}", tags=tags, moved_by=add, hears=hears)(_anything)
        return functions.hears

    assert heard("note:{id}", "kind:agent", "key:{id}") == {"note", "agent"}
    assert heard("board") == {"task"}
    assert heard("page:{id}") == {"page", "*"}
    assert heard("key:{id}", hears=("a", "b")) == {"a", "b"}


# --- the notice ------------------------------------------------------------------------------


def test_what_a_notice_says_of_facts_is_read_again() -> None:
    tags = ["key:k", "kind:note", "note:a", "note:b"]
    facts = [(5, 1, ("note:a", "key:k")), (9, 3, ("note:b", "kind:note"))]
    notice = Notice(stream="EVENTS", epoch=1, partition=0, from_=4, to=9, tags=tags, facts=notices.said(facts, tags))
    stored = notices.stored(notices.decode(notices.encode(notice)))
    assert stored is not None
    assert [(one.seq, one.count, one.tags) for one in stored] == facts


@pytest.mark.parametrize(
    "facts",
    [
        b"", b"null", b"1", b"[1]", b"[[5]]", b"[[5,1]]", b"[[4,1,0]]", b"[[10,1,0]]", b"[[6,1,0],[5,1,0]]",
        b"[[5,0,0]]", b"[[5,1,7]]", b"[[5,1,-1]]", b'[["5",1,0]]', b"[[5,1,0.5]]", b"[[" * 5000,
        b"[" + b"[5,1,0]," * 2000 + b"[6,1,0]]",
    ],
)  # fmt: skip
def test_what_makes_no_sense_says_nothing(facts: bytes) -> None:
    notice = Notice(stream="EVENTS", epoch=1, partition=0, from_=4, to=9, tags=["a"], facts=msgspec.Raw(facts))
    assert notices.stored(notice) is None
