"""Cached answers against a model: none is older than the last eviction that this process received.

A world of notes in tables, a projector that commits and sends notices, a network that loses, repeats and reorders
them, a replica that lags, connections that break, projectors that die between commit and notice; and one cache whose
loads begin, see a snapshot, and end whenever the machine says.  What is checked of every answer:

* its snapshot has all that any notice received before the question names for its tag;
* after a gap, a takeover or a lost connection was heard, it was loaded after that;
* what `peek` shows is under the same rule.

Planted bugs have to be found, each of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.cache import loading
from coord.cache.config import CacheConfig
from coord.cache.functions import CachedFunction, Functions
from coord.cache.loading import Cache, Flight, Loaded
from coord.cache.memory import MemoryCache
from coord.core import eviction
from coord.core.eviction import Evicted, Evictions
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice
from tests.conftest import soak_rounds

IDS = ("a", "b", next(i for i in "cdefghijklmnopqrstuvwxyz" if subjects.partition(i) == subjects.partition("a")))
"""The first and the last are in one partition."""
PARTITION = {id_: subjects.partition(id_) for id_ in IDS}
STREAM = subjects.EVENTS


class Snapshot:
    """What one load has seen."""

    def __init__(self, id_: str, marks: dict[Any, Any], version: int, begun: int) -> None:
        self.id = id_
        self.marks = marks
        self.version = version
        self.begun = begun
        """The model's time when the loader was called."""


class Partition:
    """One partition of the log in the tables, and its projector."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seq = 0
        self.sent_to: int | None = None
        """Where the last notice of the session ended."""
        self.session = "s0"
        self.crew: list[bytes] = []


class World(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.time = 0
        """Of the model: grows with everything that happens."""
        self.metrics = Metrics(CollectorRegistry())
        self.cache = self.run(self._make())
        functions = Functions(self.cache)

        @functions.cached(
            "note:{id}", tags=["note:{id}"], timeout_s=1e6, stale_while_revalidate_s=50.0, stale_if_error_s=100.0
        )
        async def note(id: str) -> Loaded:  # noqa: A002
            return await self._load(id)

        self.note: CachedFunction[Any] = note
        self.versions: dict[str, int] = dict.fromkeys(IDS, 0)
        self.parts = {p: Partition(p) for p in set(PARTITION.values())}
        self.history: list[tuple[dict[str, int], dict[Any, Any]]] = []
        self.network: list[tuple[bytes, bool]] = []
        self.online = False
        self.loads: list[tuple[asyncio.Future[bool], str, int, asyncio.Future[Any]]] = []
        self.asked: list[asyncio.Task[None]] = []
        self.known: dict[str, int] = dict.fromkeys(IDS, 0)
        """The version of each note that a received notice has told of."""
        self.voided: dict[str, int] = dict.fromkeys(IDS, 0)
        """When something was last received after which older loads must not be shown."""
        self.heard_sessions: dict[int, str] = {}
        self.heard_to: dict[int, int] = {}
        self.failures: list[BaseException] = []
        self.remember()

    async def _make(self) -> Cache:
        return Cache(
            CacheConfig(ttl_s=100.0, jitter=0.0, negative_ttl_s=0.0),
            metrics=self.metrics, rng=random.Random(0), monotonic=lambda: self.now,
        )  # fmt: skip

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def settle(self) -> None:
        """Let everything run that can."""

        async def turns() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.run(turns())

    def remember(self) -> None:
        """The tables as they are now: what a replica may still show later."""
        marks = {(STREAM, p.number): (1, p.seq) for p in self.parts.values()}
        self.history.append((dict(self.versions), marks))
        del self.history[:-6]

    # --- the loader, which the machine steps -----------------------------------------------

    async def _load(self, id_: str) -> Loaded:
        begun = self.time
        goes_on: asyncio.Future[bool] = self.loop.create_future()
        sees: asyncio.Future[Any] = self.loop.create_future()
        self.loads.append((goes_on, id_, begun, sees))
        snapshot = await sees
        if not await goes_on:
            raise RuntimeError("the database is away")
        return Loaded(snapshot, snapshot.marks)

    # --- rules: the world -----------------------------------------------------------------

    @rule(id_=st.sampled_from(IDS), crash=st.booleans())
    def commit(self, id_: str, crash: bool) -> None:
        """A fact is committed; a projector that dies right then sends no notice, and another takes over."""
        self.time += 1
        part = self.parts[PARTITION[id_]]
        before, part.seq = part.seq, part.seq + 1
        self.versions[id_] += 1
        self.remember()
        if crash:
            self.take_over(part)
            return
        notice = Notice(
            stream=STREAM, epoch=1, partition=part.number, session=part.session,
            from_=before if part.sent_to is None else part.sent_to, to=part.seq,
            tags=sorted({f"note:{id_}", f"key:{id_}", "kind:note"}),
        )  # fmt: skip
        part.sent_to = part.seq
        self.send(notices.encode(notice), beat=False)

    @rule(id_=st.sampled_from(IDS))
    def backlog(self, id_: str) -> None:
        """A notice that names nothing."""
        self.time += 1
        part = self.parts[PARTITION[id_]]
        before, part.seq = part.seq, part.seq + 3
        self.versions[id_] += 1
        self.remember()
        notice = Notice(
            stream=STREAM, epoch=1, partition=part.number, session=part.session,
            from_=before if part.sent_to is None else part.sent_to, to=part.seq, tags=None,
        )  # fmt: skip
        part.sent_to = part.seq
        self.send(notices.encode(notice), beat=False)

    def take_over(self, part: Partition) -> None:
        part.session = f"s{self.time}"
        part.sent_to = None

    @rule(id_=st.sampled_from(IDS))
    def beat(self, id_: str) -> None:
        part = self.parts[PARTITION[id_]]
        self.send(
            notices.encode(
                Notice(
                    stream=STREAM, epoch=1, partition=part.number, session=part.session, from_=part.seq, to=part.seq,
                    tags=[],
                )
            ),
            beat=True,
        )  # fmt: skip

    @initialize(quiet=st.booleans())
    def begin(self, quiet: bool) -> None:
        """Mostly of interest is a cache that listens, and has heard of every partition."""
        if not quiet:
            self.connect()
            for id_ in IDS:
                self.beat(id_)
            self.deliver_all()

    @rule(id_=st.sampled_from(IDS), lag=st.integers(0, 2))
    def load(self, id_: str, lag: int) -> None:
        """One whole load."""
        self.ask(id_)
        self.see(0, lag)
        self.end(0, works=True)

    @rule(id_=st.sampled_from(IDS))
    def commit_and_deliver(self, id_: str) -> None:
        self.commit(id_, crash=False)
        self.deliver_all()

    @rule()
    def deliver_all(self) -> None:
        while self.network:
            self.deliver(0, again=False)

    # --- rules: the network ---------------------------------------------------------------

    def send(self, body: bytes, *, beat: bool) -> None:
        if self.online:
            self.network.append((body, beat))

    @rule()
    def connect(self) -> None:
        if not self.online:
            self.time += 1
            self.online = True
            self.cache.connected()
            self.void(IDS)
            self.heard_sessions.clear()
            self.heard_to.clear()

    @rule()
    def disconnect(self) -> None:
        if self.online:
            self.time += 1
            self.online = False
            self.network.clear()
            self.cache.disconnected()
            self.void(IDS)
            self.settle()

    @rule(at=st.integers(0, 3))
    def lose(self, at: int) -> None:
        """One message never comes; as whoever sent it knows when its connection broke, a new session begins."""
        if at < len(self.network):
            body, _ = self.network.pop(at)
            self.take_over(self.parts[notices.decode(body).partition])

    @rule(at=st.integers(0, 3), again=st.booleans())
    def deliver(self, at: int, again: bool) -> None:
        """The next message comes, or one behind it; or it comes and stays on its way: a repeat."""
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

    def judge(self, notice: Notice, *, beat: bool) -> None:
        """What a receiver knows after this, by the words of the protocol alone."""
        mine = [i for i in IDS if PARTITION[i] == notice.partition]
        session, to = self.heard_sessions.get(notice.partition), self.heard_to.get(notice.partition)
        new = session != notice.session
        broken = new if beat else new or (to is not None and to != notice.from_)
        if beat and not new:
            return
        self.heard_sessions[notice.partition] = notice.session
        if beat:
            self.heard_to.pop(notice.partition, None)
        else:
            self.heard_to[notice.partition] = notice.to
        if broken or notice.tags is None:
            self.void(IDS)  # `note:a` may be touched from any partition, as far as anybody can know
        else:
            self.void([i for i in mine if f"note:{i}" in (notice.tags or ())])
        for versions, marks in self.history:
            if marks[STREAM, notice.partition] == (1, notice.to):
                for id_ in mine:
                    if broken or notice.tags is None or f"note:{id_}" in notice.tags:
                        self.known[id_] = max(self.known[id_], versions[id_])
                break

    def void(self, ids: Any) -> None:
        for id_ in ids:
            self.voided[id_] = self.time

    # --- rules: loads ---------------------------------------------------------------------

    @rule(id_=st.sampled_from(IDS))
    def ask(self, id_: str) -> None:
        self.time += 1
        self.asked = [task for task in self.asked if not task.done()]
        if len(self.asked) < 12:
            least, voided = self.known[id_], self.voided[id_]

            async def asking() -> None:
                try:
                    self.check(await self.note(id_), id_, least, voided)
                except RuntimeError:
                    pass  # the database was away
                except errors.CacheClosed:
                    pass

            self.asked.append(self.loop.create_task(asking()))
            self.settle()

    @rule(at=st.integers(0, 3), lag=st.integers(0, 5))
    def see(self, at: int, lag: int) -> None:
        """A load takes its snapshot: of the primary (0), or of a replica that lags."""
        waiting = [load for load in self.loads if not load[3].done()]
        if at < len(waiting):
            _, id_, begun, sees = waiting[at]
            versions, marks = self.history[max(0, len(self.history) - 1 - lag)]
            sees.set_result(Snapshot(id_, marks, versions[id_], begun))
            self.settle()

    @rule(at=st.integers(0, 3), works=st.booleans())
    def end(self, at: int, works: bool) -> None:
        """A load ends, or fails."""
        ready = [load for load in self.loads if load[3].done() and not load[0].done()]
        if at < len(ready):
            self.time += 1
            ready[at][0].set_result(works)
            self.settle()
        self.loads = [load for load in self.loads if not load[0].done()]

    @rule(seconds=st.sampled_from([1.0, 60.0, 101.0, 160.0, 300.0]))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.cache.l1.sweep()
        self.settle()

    @rule(id_=st.sampled_from(IDS))
    def evict(self, id_: str) -> None:
        self.time += 1
        self.cache.evict(f"note:{id_}")
        self.void([id_])

    # --- what must hold -------------------------------------------------------------------

    def check(self, answer: Snapshot, id_: str, least: int, voided: int) -> None:
        try:
            assert answer.id == id_
            assert answer.version >= least, f"{id_}: version {answer.version}, a notice has told of {least}"
            assert answer.begun >= voided, f"{id_}: loaded at {answer.begun}, evicted at {voided}"
        except AssertionError as exc:
            self.failures.append(exc)

    @invariant()
    def nothing_old_is_shown(self) -> None:
        for id_ in IDS:
            answer = self.note.peek(id_)
            if answer is not None:
                self.check(answer, id_, self.known[id_], self.voided[id_])
        if self.failures:
            raise self.failures[0]

    @invariant()
    def bounds_hold(self) -> None:
        assert self.cache.l1.bytes <= self.cache.l1.bytes_max
        assert len(self.cache.l1) <= len(IDS)

    def teardown(self) -> None:
        for load in self.loads:
            load[0].cancel()
            load[3].cancel()
        self.run(self.cache.close())
        for task in self.asked:
            task.cancel()
        self.run(asyncio.wait_for(self._ended(), 10))
        self.loop.close()

    async def _ended(self) -> None:
        await asyncio.gather(*self.asked, return_exceptions=True)


EVERYTHING = list(HealthCheck)
QUICK = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=EVERYTHING)


@pytest.mark.parametrize("remembered", [limits.CACHE_EVICTED_TAGS_MAX, 2])
def test_no_answer_is_older_than_the_last_eviction_received(remembered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_EVICTED_TAGS_MAX", remembered)
    run_state_machine_as_test(World, settings=QUICK)


def play(seed: int, steps: int = 60) -> None:
    """The same machine by plain chance, ten times as fast: for whoever looks for something that is there."""
    rng = random.Random(seed)
    world = World()
    try:
        world.begin(quiet=rng.random() < 0.1)
        for _ in range(steps):
            step = rng.choice(STEPS)
            step(world, rng)
            world.nothing_old_is_shown()
    finally:
        world.teardown()


STEPS: list[Callable[[World, random.Random], None]] = [
    lambda w, r: w.commit(r.choice(IDS), crash=r.random() < 0.2),
    lambda w, r: w.commit_and_deliver(r.choice(IDS)),
    lambda w, r: w.backlog(r.choice(IDS)),
    lambda w, r: w.beat(r.choice(IDS)),
    lambda w, _: w.connect(),
    lambda w, r: w.disconnect() if r.random() < 0.3 else None,
    lambda w, _: w.deliver_all(),
    lambda w, r: w.deliver(r.randrange(3), again=r.random() < 0.2),
    lambda w, r: w.lose(r.randrange(3)),
    lambda w, r: w.load(r.choice(IDS), r.choice([0, 0, 0, 1, 2])),
    lambda w, r: w.load(r.choice(IDS), 0),
    lambda w, r: w.ask(r.choice(IDS)),
    lambda w, r: w.see(r.randrange(3), r.choice([0, 0, 1, 3])),
    lambda w, r: w.end(r.randrange(3), works=r.random() < 0.8),
    lambda w, r: w.passes(r.choice([1.0, 60.0, 101.0, 160.0])) if r.random() < 0.5 else None,
    lambda w, r: w.evict(r.choice(IDS)) if r.random() < 0.3 else None,
]


def _nothing(self: Evictions, *_: Any) -> Evicted:
    return Evicted("planted")


def _keeps_on(self: Evictions) -> Evicted:
    self._connected = False
    return Evicted("planted")


def _connects_quietly(self: Evictions) -> Evicted:
    self._connected = True
    return Evicted("planted")


def _joins_any(self: Cache, key: Any, tags: Any, *, alone: bool) -> Flight | None:
    flight = self._flights.get(key)
    return None if alone or flight is None or flight.future.done() else flight


def _begun_at_the_end(original: Callable[..., None]) -> Callable[..., None]:
    def keep(self: Cache, key: Any, flight: Flight, loaded: Loaded, policy: Any) -> None:
        flight.begun = self.evictions.generation
        original(self, key, flight, loaded, policy)

    return keep


def _only_expires(self: MemoryCache, tags: Any, _reason: str, _spared: Any = ()) -> int:
    for tag in tags:
        for key in self._tagged.get(tag, ()):
            entry = self._entries[key]
            if self._fresh.pop(key, None) is not None:
                entry.expires = self._monotonic()
                self._stale[key] = None
                self._look_at(key, entry, entry.kept_until)
    return 0


def _last_place(original: Callable[..., Any]) -> Callable[..., Any]:
    def named(self: Evictions, tags: Any, *args: Any) -> Evicted:
        for tag in tags:
            self._tags.pop(tag, None)
        return original(self, tags, *args)  # type: ignore[no-any-return]

    return named


def _known_session(original: Callable[..., Any]) -> Callable[..., Any]:
    def beat(self: Evictions, notice: Notice) -> Evicted | None:
        source = (notice.stream, notice.partition)
        if source not in self._heard:
            self._heard_any = True
            self._heard[source] = eviction._Heard(notice.session, None, (notice.epoch, notice.to))
            return None
        return original(self, notice)  # type: ignore[no-any-return]

    return beat


def _any_from(original: Callable[..., Any]) -> Callable[..., Any]:
    def notice(self: Evictions, notice: Notice) -> list[Evicted]:
        known = self._heard.get((notice.stream, notice.partition))
        if known is not None:
            known.to = None
        return original(self, notice)  # type: ignore[no-any-return]

    return notice


def _any_session(original: Callable[..., Any]) -> Callable[..., Any]:
    def notice(self: Evictions, notice: Notice) -> list[Evicted]:
        known = self._heard.get((notice.stream, notice.partition))
        if known is not None:
            known.session = notice.session
        return original(self, notice)  # type: ignore[no-any-return]

    return notice


def _forgets(original: Callable[..., Any]) -> Callable[..., Any]:
    def named(self: Evictions, *args: Any) -> Evicted:
        found = original(self, *args)
        self._forgotten = 0
        return found  # type: ignore[no-any-return]

    return named


PLANTED: dict[str, tuple[type[Any] | Any, str, Any]] = {
    "keeps what was overtaken": (Evictions, "may_keep", lambda *_: True),
    "shares loads that were overtaken": (Cache, "_joinable", _joins_any),
    "looks at the generation when a load ends": (Cache, "_keep", _begun_at_the_end(Cache._keep)),
    "ignores gaps": (Evictions, "_gap", _nothing),
    "ignores notices that name nothing": (Evictions, "_partition_wide", _nothing),
    "does not look at where a notice begins": (Evictions, "notice", _any_from(Evictions.notice)),
    "does not look at a notice's session": (Evictions, "notice", _any_session(Evictions.notice)),
    "believes the first session it hears of": (Evictions, "beat", _known_session(Evictions.beat)),
    "keeps on without a connection": (Evictions, "disconnected", _keeps_on),
    "keeps what was loaded before it listened": (Evictions, "connected", _connects_quietly),
    "does not see that a replica lags": (loading, "is_behind", lambda *_: False),
    "serves stale what was evicted": (MemoryCache, "drop_tags", _only_expires),
    "takes the last place for the furthest": (Evictions, "_named", _last_place(Evictions._named)),
    "forgets evictions": (Evictions, "_named", _forgets(Evictions._named)),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(bug: str, monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    where, name, planted = PLANTED[bug]
    monkeypatch.setattr(where, name, planted)
    if bug == "forgets evictions":
        monkeypatch.setattr(limits, "CACHE_EVICTED_TAGS_MAX", 2)
    first = rng.getrandbits(32)
    with pytest.raises(AssertionError, match=r"version|loaded at"):
        for n in range(2_000):
            play(first + n)


def test_without_planted_bugs_plain_chance_finds_nothing(rng: random.Random) -> None:
    first = rng.getrandbits(32)
    for n in range(soak_rounds(60)):
        play(first + n)
