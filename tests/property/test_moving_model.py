"""Cached answers that facts move on, against a model: each is what a load at some place would have brought.

A log of facts under keys of two partitions, single ones, frames, and what nobody believes; a live feed that loses,
delays, repeats and reorders them; projectors that commit, refuse parts of frames, die, and tell of it in notices that
name each message, or not, or nothing; a network that loses, repeats and reorders those; replicas that lag; one cache
whose loads begin, see a snapshot, and end whenever the machine says.  What is checked of every answer:

* of each partition it has a beginning of what was committed there, in the log's order, each fact once;
* that goes as far as any notice received before the question tells of;
* what was evicted by hand was loaded since.

Planted bugs have to be found, each of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.cache import moving as cache_moving
from coord.cache.config import CacheConfig
from coord.cache.functions import CachedFunction, Functions
from coord.cache.loading import Cache, Loaded
from coord.cache.memory import MemoryCache
from coord.cache.moving import Moving
from coord.core import moving
from coord.core.eviction import Evictions
from coord.core.moving import Message, Moves, Told
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.encode import encode_frame
from coord.wire.notices import Notice
from coord.wire.records import Fact, StoredFact
from coord.wire.times import from_unix_us
from tests.conftest import soak_rounds

STREAM = subjects.EVENTS
KEYS = ("a", next(k for k in "bcdefgh" if subjects.partition(k) != subjects.partition("a")))
IDS = ("x", "y")
PARTS = {key: subjects.partition(key) for key in KEYS}
TAGS = tuple(f"note:{id_}" for id_ in IDS) + tuple(f"key:{key}" for key in KEYS)
MODES = ("named", "named", "named", "named", "unnamed", "backlog", "crash")


class Row(msgspec.Struct, frozen=True, order=True):
    """A fact that was stored."""

    seq: int
    idx: int
    n: int


class Answer(msgspec.Struct, frozen=True):
    begun: int
    """The model's time when it was loaded."""
    rows: tuple[Row, ...]


def add(answer: Answer, fact: StoredFact) -> Answer:
    return Answer(answer.begun, (*answer.rows, Row(fact.seq, fact.index, fact.data["n"])))


class Sent(msgspec.Struct):
    """A message of the log."""

    seq: int
    key: str
    id: str
    live: tuple[bytes, bytes, bytes]
    rows: list[Row]
    """What a projector stores of it."""

    @property
    def tags(self) -> tuple[str, ...]:
        return (f"note:{self.id}", f"key:{self.key}", "kind:note")


class World(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.time = 0
        self.cache = self.run(self._make())
        functions = Functions(self.cache)

        @functions.cached("note {id}", tags=["note:{id}"], moved_by=add, timeout_s=1e6, stale_if_error_s=100.0)
        async def note(id: str) -> Loaded:  # noqa: A002
            return await self._load(f"note:{id}")

        @functions.cached("under {key}", tags=["key:{key}"], moved_by=add, hears=["note"], timeout_s=1e6)
        async def under(key: str) -> Loaded:
            return await self._load(f"key:{key}")

        self.asks: dict[str, CachedFunction[Any]] = {"note": note, "key": under}
        self.seq = self.n = 0
        self.live: list[tuple[bytes, bytes, bytes]] = []
        self.pending: dict[str, list[Sent]] = {key: [] for key in KEYS}
        self.rows: dict[str, list[tuple[str, Row]]] = {tag: [] for tag in TAGS}
        """Of each tag what was committed: the key it came under, and the row."""
        self.marks: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.sent_to: dict[str, int | None] = dict.fromkeys(KEYS)
        self.session: dict[str, str] = dict.fromkeys(KEYS, "s0")
        self.history: list[tuple[dict[str, tuple[Row, ...]], dict[Any, Any]]] = []
        self.network: list[tuple[bytes, bool]] = []
        self.online = False
        self.loads: list[tuple[asyncio.Future[bool], str, asyncio.Future[Answer]]] = []
        self.asked: list[asyncio.Task[None]] = []
        self.known: dict[tuple[str, str], int] = {(tag, key): 0 for tag in TAGS for key in KEYS}
        """Up to where notices that were received have told of each tag and key."""
        self.evicted: dict[str, int] = dict.fromkeys(TAGS, 0)
        self.heard: dict[str, tuple[str, int | None]] = {}
        self.failures: list[BaseException] = []
        self.remember()

    async def _make(self) -> Cache:
        return Cache(
            CacheConfig(ttl_s=100.0, jitter=0.0), metrics=Metrics(CollectorRegistry()), rng=random.Random(0),
            monotonic=lambda: self.now,
        )  # fmt: skip

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.run(turns())

    def remember(self) -> None:
        """The tables as they are now: what a replica may still show later."""
        marks: dict[Any, Any] = {(STREAM, p): (1, self.seq) for p in range(limits.PARTITIONS)}
        marks |= {(STREAM, PARTS[key]): (1, self.marks[key]) for key in KEYS}
        self.history.append(({tag: tuple(row for _, row in rows) for tag, rows in self.rows.items()}, marks))
        del self.history[:-6]

    async def _load(self, tag: str) -> Loaded:
        goes_on: asyncio.Future[bool] = self.loop.create_future()
        sees: asyncio.Future[Any] = self.loop.create_future()
        begun = self.time
        self.loads.append((goes_on, tag, sees))
        rows, marks = await sees
        if not await goes_on:
            raise RuntimeError("the database is away")
        return Loaded(Answer(begun, tuple(sorted(rows[tag]))), marks)

    # --- rules: the log and its projectors ------------------------------------------------

    @rule(
        key=st.sampled_from(KEYS), id_=st.sampled_from(IDS), shape=st.sampled_from(["one", "one", "two", "half", "bad"])
    )
    def state(self, key: str, id_: str, shape: str) -> None:
        """A message: one fact, a frame of two, one of which only the first is stored, or what nobody believes."""
        self.time += 1
        self.seq += 1
        count = 2 if shape in {"two", "half"} else 1
        numbers = list(range(self.n, self.n + count))
        self.n += count
        subject = subjects.FactSubject("t", "me", key, "note", id_, "progress")
        headers, body = b"NATS/1.0\r\n", b'{"n": %d}' % numbers[0]
        if count == 2:
            at = from_unix_us(1_700_000_000_000_000)
            facts = [Fact(kind="note", id=id_, key=key, event="progress", data={"n": n}) for n in numbers]
            framed = encode_frame(facts, tenant="t", agent="me", event_id=f"e{self.seq}", occurred_at=at)
            headers, body = framed.header_block()[:-2], framed.body
        elif shape == "bad":
            body = b"{"
        broker = (
            f"Nats-Stream: {STREAM}\r\nNats-Subject: {subject.stored}\r\nNats-Sequence: {self.seq}\r\n"
            "Nats-Time-Stamp: 2026-01-01T00:00:00Z\r\nNats-Last-Sequence: 0\r\n\r\n"
        )
        live = (subject.live.encode(), headers + broker.encode(), body)
        stored = {"half": 1, "bad": 0}.get(shape, count)
        rows = [Row(self.seq, idx, n) for idx, n in enumerate(numbers[:stored])]
        self.pending[key].append(Sent(self.seq, key, id_, live, rows))
        if self.online:
            self.live.append(live)

    @rule(key=st.sampled_from(KEYS), count=st.integers(1, 3), mode=st.sampled_from(MODES))
    def commit(self, key: str, count: int, mode: str) -> None:
        """Messages are committed; who dies right then sends no notice, and another takes over."""
        batch, self.pending[key] = self.pending[key][:count], self.pending[key][count:]
        if not batch:
            return
        self.time += 1
        before, to = self.marks[key], batch[-1].seq
        self.marks[key] = to
        for one in batch:
            for tag in one.tags[:2]:
                self.rows[tag] += [(key, row) for row in one.rows]
        for other in KEYS:  # who has nothing to do follows the end of the log
            if not self.pending[other]:
                self.marks[other] = self.seq
        self.remember()
        if mode == "crash":
            self.take_over(key)
            return
        stored = [one for one in batch if one.rows]
        if not stored:
            return  # the tenant was not touched
        tags = None if mode == "backlog" else sorted({tag for one in stored for tag in one.tags})
        facts = notices.UNSAID
        if tags is not None and mode == "named":
            facts = notices.said([(one.seq, len(one.rows), one.tags) for one in stored], tags)
        last = self.sent_to[key]
        notice = Notice(
            stream=STREAM, epoch=1, partition=PARTS[key], session=self.session[key],
            from_=before if last is None else last, to=to, tags=tags, facts=facts,
        )  # fmt: skip
        self.sent_to[key] = to
        self.send(notices.encode(notice), beat=False)

    def take_over(self, key: str) -> None:
        self.session[key] = f"s{self.time}"
        self.sent_to[key] = None

    @rule(key=st.sampled_from(KEYS))
    def beat(self, key: str) -> None:
        self.beat_of(PARTS[key], self.session[key], self.marks[key])

    def beat_of(self, partition: int, session: str, at: int) -> None:
        notice = Notice(
            stream=STREAM, epoch=1, partition=partition, session=session, from_=at, to=at, tags=[]
        )  # fmt: skip
        self.send(notices.encode(notice), beat=True)

    # --- rules: what comes through --------------------------------------------------------

    def send(self, body: bytes, *, beat: bool) -> None:
        if self.online:
            self.network.append((body, beat))

    @initialize()
    def connect(self) -> None:
        if not self.online:
            self.time += 1
            self.online = True
            self.cache.connected()
            self.heard.clear()
            for partition in set(range(limits.PARTITIONS)) - set(PARTS.values()):
                self.beat_of(partition, "s0", 0)
            for key in KEYS:
                self.beat(key)
            self.deliver_all()

    @rule()
    def reconnect(self) -> None:
        self.time += 1
        self.online = False
        self.network.clear()
        self.live.clear()
        self.cache.disconnected()
        self.settle()
        self.connect()

    @rule(at=st.integers(0, 3), how=st.sampled_from(["once", "once", "again", "lost"]))
    def hear(self, at: int, how: str) -> None:
        """A live fact comes, or comes and will again, or never does."""
        if at < len(self.live):
            live = self.live[at] if how == "again" else self.live.pop(at)
            if how != "lost":
                self.cache.hear_fact(*live)

    @rule()
    def hear_all(self) -> None:
        while self.live:
            self.hear(0, "once")

    @rule(at=st.integers(0, 3))
    def lose(self, at: int) -> None:
        """A notice never comes; as whoever sent it knows when its connection broke, a new session begins."""
        if at < len(self.network):
            body, _ = self.network.pop(at)
            self.take_over(self.key_of(notices.decode(body).partition))

    @staticmethod
    def key_of(partition: int) -> str:
        return next(key for key in KEYS if PARTS[key] == partition)

    @rule(at=st.integers(0, 3), again=st.booleans())
    def deliver(self, at: int, again: bool) -> None:
        if not self.network:
            return
        at = min(at, len(self.network) - 1)
        body, beat = self.network[at]
        if not again:
            del self.network[at]
        self.time += 1
        notice = notices.decode(body)
        self.judge(notice, beat=beat)
        (self.cache.hear_beat if beat else self.cache.hear)(body)
        self.settle()

    @rule()
    def deliver_all(self) -> None:
        while self.network:
            self.deliver(0, again=False)

    @rule(key=st.sampled_from(KEYS), id_=st.sampled_from(IDS), mode=st.sampled_from(MODES))
    def flows(self, key: str, id_: str, mode: str) -> None:
        """As it is nearly always."""
        self.state(key, id_, "one")
        self.hear_all()
        self.commit(key, 3, mode)
        self.deliver_all()

    @rule(tag=st.sampled_from(TAGS), key=st.sampled_from(KEYS), id_=st.sampled_from(IDS), mode=st.sampled_from(MODES))
    def overtaken(self, tag: str, key: str, id_: str, mode: str) -> None:
        """A load whose snapshot is older than what is told of as it ends."""
        self.ask(tag)
        self.see(0, 0)
        self.flows(key, id_, mode)
        self.flows(key, id_, "named")
        self.end(0, works=True)

    def judge(self, notice: Notice, *, beat: bool) -> None:
        """What a receiver knows after this, by the words of the protocol alone."""
        if notice.partition not in PARTS.values():
            return
        key = self.key_of(notice.partition)
        session, to = self.heard.get(key, ("", None))
        new = session != notice.session
        if beat and not new:
            return
        broken = new or (not beat and to is not None and to != notice.from_)
        self.heard[key] = (notice.session, None if beat else notice.to)
        for tag in TAGS:
            if broken or notice.tags is None or tag in notice.tags:
                self.known[tag, key] = max(self.known[tag, key], notice.to)

    # --- rules: loads ---------------------------------------------------------------------

    @rule(tag=st.sampled_from(TAGS))
    def ask(self, tag: str) -> None:
        self.time += 1
        self.asked = [task for task in self.asked if not task.done()]
        if len(self.asked) < 12:
            least, evicted = self.knows(tag), self.evicted[tag]
            sort, _, name = tag.partition(":")

            async def asking() -> None:
                try:
                    self.check(await self.asks[sort](name), tag, least, evicted)
                except (RuntimeError, errors.CacheClosed):
                    pass  # the database was away

            self.asked.append(self.loop.create_task(asking()))
            self.settle()

    @rule(at=st.integers(0, 3), lag=st.sampled_from([0, 0, 0, 1, 2]))
    def see(self, at: int, lag: int) -> None:
        waiting = [load for load in self.loads if not load[2].done()]
        if at < len(waiting):
            waiting[at][2].set_result(self.history[max(0, len(self.history) - 1 - lag)])  # type: ignore[arg-type]
            self.settle()

    @rule(at=st.integers(0, 3), works=st.sampled_from([True, True, False]))
    def end(self, at: int, works: bool) -> None:
        ready = [load for load in self.loads if load[2].done() and not load[0].done()]
        if at < len(ready):
            self.time += 1
            ready[at][0].set_result(works)
            self.settle()
        self.loads = [load for load in self.loads if not load[0].done()]

    @rule(tag=st.sampled_from(TAGS), lag=st.integers(0, 2))
    def load(self, tag: str, lag: int) -> None:
        self.ask(tag)
        self.see(0, lag)
        self.end(0, works=True)

    @rule(seconds=st.sampled_from([1.0, 60.0, 101.0]))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.cache.l1.sweep()
        self.settle()

    @rule(tag=st.sampled_from(TAGS))
    def evict(self, tag: str) -> None:
        self.time += 1
        self.cache.evict(tag)
        self.evicted[tag] = self.time

    # --- what must hold -------------------------------------------------------------------

    def knows(self, tag: str) -> dict[str, int]:
        return {key: self.known[tag, key] for key in KEYS}

    def check(self, answer: Answer, tag: str, least: dict[str, int], evicted: int) -> None:
        try:
            assert answer.begun >= evicted, f"loaded at {answer.begun}, evicted at {evicted}"
            assert list(answer.rows) == sorted(set(answer.rows)), f"out of order, or twice: {answer.rows}"
            for key in KEYS:
                all_of = sorted(row for whose, row in self.rows[tag] if whose == key)
                here = [row for row in answer.rows if row in set(all_of)]
                assert here == all_of[: len(here)], f"not a beginning: {here} of {all_of}"
                needed = sum(row.seq <= least[key] for row in all_of)
                assert len(here) >= needed, f"{len(here)} of {key}, notices have told of {needed}"
            committed = {row for _, row in self.rows[tag]}
            assert set(answer.rows) <= committed, "something that was never stored"
        except AssertionError as exc:
            self.failures.append(exc)

    @invariant()
    def nothing_wrong_is_shown(self) -> None:
        for tag in TAGS:
            sort, _, name = tag.partition(":")
            answer = self.asks[sort].peek(name)
            if answer is not None:
                self.check(answer, tag, self.knows(tag), self.evicted[tag])
        if self.failures:
            raise self.failures[0]

    @invariant()
    def bounds_hold(self) -> None:
        moves = self.cache.moving.moves
        assert 0 <= moves.bytes <= self.cache.l1.bytes_max * limits.CACHE_MOVE_SHARE
        assert 0 <= self.cache.l1.bytes <= self.cache.l1.bytes_max
        assert len(moves._remembered) <= limits.CACHE_MOVE_FACTS_MAX
        assert len(moves._remembered) == sum(len(chain.told) for chain in moves._chains.values())

    def teardown(self) -> None:
        for load in self.loads:
            load[0].cancel()
            load[2].cancel()
        self.run(self.cache.close())
        for task in self.asked:
            task.cancel()
        self.run(asyncio.wait_for(self._ended(), 10))
        self.loop.close()

    async def _ended(self) -> None:
        await asyncio.gather(*self.asked, return_exceptions=True)


QUICK = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_MOVE_FACTS_MAX", 2)
    monkeypatch.setattr(limits, "CACHE_MOVE_DUE_MAX", 2)


@pytest.mark.parametrize("is_tight", [False, True])
def test_an_answer_is_what_a_load_would_have_brought(is_tight: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_tight:
        tight(monkeypatch)
    run_state_machine_as_test(World, settings=QUICK)


def play(seed: int, steps: int = 60) -> dict[str, int]:
    """The same machine by plain chance; what was moved."""
    rng = random.Random(seed)
    world = World()
    try:
        world.connect()
        for _ in range(steps):
            rng.choice(STEPS)(world, rng)
            if rng.random() < 0.5:  # else facts wait for more than one notice
                world.nothing_wrong_is_shown()
            world.bounds_hold()
        return dict(world.cache.stats().moved)
    finally:
        world.teardown()


def _tag(r: random.Random) -> str:
    return r.choice(TAGS)


def _state(w: World, r: random.Random) -> None:
    w.state(r.choice(KEYS), r.choice(IDS), r.choice(["one", "one", "one", "two", "half", "bad"]))


STEPS: list[Callable[[World, random.Random], None]] = [
    _state,
    lambda w, r: w.commit(r.choice(KEYS), r.randint(1, 3), r.choice(MODES)),
    lambda w, r: w.flows(r.choice(KEYS), r.choice(IDS), "named"),
    lambda w, r: w.flows(r.choice(KEYS), r.choice(IDS), r.choice(MODES)),
    lambda w, r: w.load(_tag(r), r.choice([0, 0, 0, 1])),
    lambda w, r: w.load(_tag(r), 0),
    lambda w, r: w.overtaken(_tag(r), r.choice(KEYS), r.choice(IDS), r.choice(["named", "crash"])),
    lambda w, r: w.ask(_tag(r)),
    lambda w, r: w.see(r.randrange(3), r.choice([0, 0, 1])),
    lambda w, r: w.end(r.randrange(3), works=r.random() < 0.8),
    lambda w, r: w.hear(r.randrange(3), r.choice(["once", "once", "again", "lost"])),
    lambda w, _: w.hear_all(),
    lambda w, r: w.deliver(r.randrange(3), again=r.random() < 0.2),
    lambda w, _: w.deliver_all(),
    lambda w, r: w.beat(r.choice(KEYS)),
    lambda w, r: w.lose(r.randrange(3)) if w.network and w.network[0][1] is False else None,
    lambda w, r: w.reconnect() if r.random() < 0.2 else None,
    lambda w, r: w.passes(r.choice([1.0, 60.0, 101.0])) if r.random() < 0.3 else None,
    lambda w, r: w.evict(_tag(r)) if r.random() < 0.3 else None,
]


def _applies_again(original: Callable[..., Any]) -> Callable[..., Any]:
    def touch(self: Moves, at: Any, tags: Any, notice: Notice, told: Any) -> Any:
        source = (notice.stream, notice.partition)
        return original(self, moving.At(at.places | {source: (1, 0)}, -1), tags, notice, told)

    return touch


def _any_snapshot(original: Callable[..., Any]) -> Callable[..., Any]:
    def place(self: Moves, tags: Any, marks: Any) -> Any:
        since = {source: chain.since for source, chain in self._chains.items()}
        for chain in self._chains.values():
            chain.since = (1, 0)
        found = original(self, tags, marks)
        for source, chain in self._chains.items():
            chain.since = since[source]
        return found

    return place


def _skips_unheard(at: Any, facts: list[Told]) -> Any:
    return _MOVED(at, [one for one in facts if one.message is not None])


def _any_order(at: Any, facts: list[Told]) -> Any:
    return _MOVED(msgspec.structs.replace(at, seq=-1), facts)


def _trusts(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, notice, *, unbroken: original(self, notice, unbroken=notice.tags is not None)


def _keeps_chains(original: Callable[..., Any]) -> Callable[..., Any]:
    def begin(self: Moves, source: Any, place: Any) -> None:
        if source not in self._chains:
            original(self, source, place)

    return begin


def _any_count(self: Message, count: int) -> Any:
    _FACTS(self, count)
    return self._facts


def _forgets_quietly(original: Callable[..., Any]) -> Callable[..., Any]:
    def make_room(self: Moves) -> None:
        since = {source: chain.since for source, chain in self._chains.items()}
        original(self)
        for source, chain in self._chains.items():
            chain.since = since[source]

    return make_room


def _lacks_nothing(self: Moving, value: Any, tags: Any, marks: Any, way: Any) -> Any:
    moved = self.moves.place(tags, marks)
    return None if isinstance(moved, str) else (value, cache_moving.Standing(way, moved.at))


def _due_for_ever(original: Callable[..., Any]) -> Callable[..., Any]:
    def settle(self: Moving, key: Any) -> None:
        entry = self._l1.due(key)
        due = [] if entry is None else list(entry.moving.due)
        original(self, key)
        if entry is not None:
            entry.moving.due = due

    return settle


_MOVED, _FACTS = moving._moved, Message.facts

PLANTED: dict[str, tuple[Any, str, Any]] = {
    "applies what the snapshot has": (Moves, "touch", _applies_again(Moves.touch)),
    "does not look at how far back it knows": (Moves, "place", _any_snapshot(Moves.place)),
    "skips what was not heard": (moving, "_moved", _skips_unheard),
    "takes facts in any order": (moving, "_moved", _any_order),
    "believes notices behind a gap": (Moves, "tell", _trusts(Moves.tell)),
    "keeps what it knew over a gap": (Moves, "begin", _keeps_chains(Moves.begin)),
    "takes what was refused": (Message, "facts", _any_count),
    "forgets without a word": (Moves, "_make_room", _forgets_quietly(Moves._make_room)),
    "keeps a load as it came": (Moving, "catch_up", _lacks_nothing),
    "applies what was due twice": (Moving, "settle", _due_for_ever(Moving.settle)),
    "leaves what is due in sight": (MemoryCache, "put_off", lambda *_: True),
    "pardons what was evicted by hand": (Evictions, "is_pardoned", lambda *_: True),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(bug: str, monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    where, name, planted = PLANTED[bug]
    monkeypatch.setattr(where, name, planted)
    if bug == "forgets without a word":
        tight(monkeypatch)
    first = rng.getrandbits(32)
    with pytest.raises(AssertionError, match=r"loaded at|out of order|not a beginning|notices have told|never stored"):
        for n in range(3_000):
            play(first + n)


def test_without_planted_bugs_plain_chance_finds_nothing_and_much_is_moved(rng: random.Random) -> None:
    first = rng.getrandbits(32)
    moved: dict[str, int] = {}
    for n in range(soak_rounds(25)):
        for outcome, count in play(first + n).items():
            moved[outcome] = moved.get(outcome, 0) + count
    print(moved)
    assert moved["moved"] > 20
