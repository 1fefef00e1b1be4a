"""Tiers that processes share against a model: no process serves what is older than the last eviction it received.

A log, tables that follow it, a projector that may die between commit and notice, two processes with a connection each
that comes and goes, start again cold, load from replicas that lag, and a tier where what they put arrives late, in any
order.  Now and then the log is made anew, counts from 1 and has another epoch.  What is checked of every answer,
wherever it came from:

* it has all that the process was told of about its tag, by name or by a gap, and the fact that it was asked for;
* its load began after the process evicted it by hand, or was told that another did, or after that was recorded when
  the process connected.

The record of what was evicted by hand leaves the tier now and then.

Messages of a partition come in the order in which they were sent, as the broker's do: marks that are lifted to what
was heard depend on that.  Planted bugs have to be found, each of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.cache import eras
from coord.cache.by_hand import ByHands
from coord.cache.config import CacheConfig
from coord.cache.functions import CachedFunction, Functions
from coord.cache.loading import Cache, Loaded
from coord.core import eviction, proving
from coord.core.eviction import Evictions, Place, Watermark
from coord.core.proving import LogEnds
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.cache_api import ByHand, encode
from coord.wire.notices import Notice
from tests.conftest import soak_rounds

IDS = ("a", "b", next(i for i in "cdefghijklmnopqrstuvwxyz" if subjects.partition(i) == subjects.partition("a")))
PARTITION = {id_: subjects.partition(id_) for id_ in IDS}
STREAM = subjects.EVENTS
FILTERS = {subjects.log_filter("acme", kind="note", id=id_): id_ for id_ in IDS}


T = TypeVar("T")


class Held(msgspec.Struct):
    seq: int
    body: bytes


class LateTier:
    """A tier where a put takes effect when the machine says; leases are given to everybody."""

    name = "l2"
    life_s = 3600.0

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.waiting: list[tuple[str, bytes]] = []
        self.seq = 0

    async def get(self, name: str, /) -> Held | None:
        return self.held.get(name)

    async def put(self, name: str, body: bytes, /, *, ttl_s: float, over: int | None = None) -> int | None:
        del ttl_s
        if name == "by-hand":  # whoever writes that awaits it
            if over != (self.held[name].seq if name in self.held else 0):
                return None
            self.seq += 1
            self.held[name] = Held(self.seq, body)
            return self.seq
        self.seq += 1
        if not name.endswith("-lease"):
            self.waiting.append((name, body))
            del self.waiting[:-8]
        return self.seq

    def land(self, at: int) -> None:
        name, body = self.waiting.pop(at % len(self.waiting))
        self.seq += 1
        self.held[name] = Held(self.seq, body)

    async def drop(self, name: str, /) -> None:
        self.held.pop(name, None)

    async def look(self) -> None:
        pass

    def is_aging(self, seq: int, /) -> bool:
        return self.seq - seq > 20


class Process:
    """One process: its cache, what it was told, and what is on its way to it."""

    def __init__(self, world: Fleet) -> None:
        self.online = False
        self.network: list[tuple[bytes, bool]] = []
        self.known = dict.fromkeys(IDS, 0)
        self.by_hand = dict.fromkeys(IDS, 0)
        self.told: list[tuple[dict[str, int], bytes]] = []
        """Messages on their way about what was evicted by hand, and when."""
        self.unsaid: dict[str, int] = {}
        """Evicted by hand, and when, since others were told last."""
        self.sessions: dict[int, str] = {}
        self.reached: dict[int, int | None] = {}
        self.cache = Cache(
            CacheConfig(ttl_s=100.0, jitter=0.0),
            metrics=Metrics(CollectorRegistry()), rng=random.Random(0), monotonic=lambda: world.now,
            tiers=(world.tier,), log=world, wall=lambda: world.now,
        )  # fmt: skip

        @Functions(self.cache).cached("note:{id}", tags=["note:{id}"], timeout_s=1e6, shared=tuple[str, int, int])
        async def note(id: str) -> Loaded:  # noqa: A002
            return await world.load(id)

        self.note: CachedFunction[Any] = note
        self.cache.by_hand.say = lambda said: world.say(self, said)


class Fleet(RuleBasedStateMachine):
    """See the module."""

    tenant = "acme"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.time = 0
        self.tier = LateTier()
        self.log: list[str] = []
        """The id of each fact; its sequence is its place in here, from 1."""
        self.logs = [self.log]
        """Of each epoch, the first is 1."""
        self.before = [dict.fromkeys(IDS, 0)]
        """Versions when that began."""
        self.first = 1
        self.places = dict.fromkeys(set(PARTITION.values()), 0)
        self.sessions = dict.fromkeys(self.places, "s0")
        self.sent_to: dict[int, int | None] = dict.fromkeys(self.places, None)
        self.tables = [self.committed()]
        """Where each partition was committed up to, now and before: what replicas may show."""
        self.loads: list[tuple[asyncio.Future[Any], str, int]] = []
        self.asked: list[asyncio.Task[None]] = []
        self.failures: list[BaseException] = []
        self.hits = 0
        self.processes = self.run(self._processes())
        for process in self.processes:
            self.connect(process)
        for p in self.places:
            self.beat(p)
        self.deliver_all()

    async def _processes(self) -> list[Process]:
        return [Process(self), Process(self)]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.run(turns())

    @property
    def epoch(self) -> int:
        return len(self.logs)

    def committed(self) -> dict[int, Place]:
        """Of all partitions; those without facts of ours follow the log."""
        end = len(self.log)
        return {p: (self.epoch, self.places.get(p, end)) for p in range(limits.PARTITIONS)}

    def version(self, id_: str, place: Place) -> int:
        """How much has happened to it up to a place."""
        epoch, seq = place
        return self.before[epoch - 1][id_] + sum(one == id_ for one in self.logs[epoch - 1][:seq])

    async def ends(self, filters: Any, /) -> LogEnds:
        """The log, as a process asks it."""
        under: dict[str, int | None] = {}
        for filter_ in filters:
            last = max((seq for seq, id_ in enumerate(self.log, 1) if id_ == FILTERS[filter_]), default=0)
            under[filter_] = last if last >= self.first else None
        return LogEnds(self.first, len(self.log), under, str(self.epoch))

    # --- the world -------------------------------------------------------------------------

    def publish(self, id_: str) -> None:
        """A fact is in the log, and in no table yet."""
        self.log.append(id_)

    def commit(self, p: int, *, crash: bool, names: bool = True) -> None:
        """A partition is projected up to the log's end; a projector that dies right then sends no notice."""
        self.time += 1
        before = self.places[p]
        touched = sorted({f"note:{i}" for i in self.log[before:] if PARTITION[i] == p})
        self.places[p] = len(self.log)
        self.tables = [*self.tables[-5:], self.committed()]
        if crash:
            self.take_over(p)
        elif touched:
            sent = self.sent_to[p]
            self.send(p, before if sent is None else sent, touched if names else None, beat=False)
            self.sent_to[p] = self.places[p]

    def all_at_once(self, id_: str) -> None:
        """A fact, its commit and its notice."""
        self.publish(id_)
        for p in self.places:
            self.commit(p, crash=False)
        self.deliver_all()

    def make_anew(self) -> None:
        """The log is another one, which changes what is in the tables, and what was in the old one alone is lost."""
        self.time += 1
        self.before.append({id_: self.version(id_, (self.epoch, len(self.log))) + 1 for id_ in IDS})
        self.log = []
        self.logs.append(self.log)
        self.first = 1
        self.places = dict.fromkeys(self.places, 0)
        self.tables = [*self.tables[-5:], self.committed()]
        for p in self.places:
            self.take_over(p)

    def take_over(self, p: int) -> None:
        self.sessions[p] = f"s{self.time}"
        self.sent_to[p] = None

    def beat(self, p: int) -> None:
        self.send(p, self.places[p], [], beat=True)

    def all_beat(self) -> None:
        for p in self.places:
            self.beat(p)
        self.deliver_all()

    def lose(self, p: int) -> None:
        """The projector's connection breaks: what it sent and nobody has got is lost, and it begins a new session."""
        self.time += 1
        for process in self.processes:
            process.network = [m for m in process.network if notices.decode(m[0]).partition != p]
        self.take_over(p)

    def trim(self) -> None:
        """The log's oldest facts leave, of those that are in the tables."""
        self.first = max(self.first, min(self.places.values()) + 1)

    def send(self, p: int, from_: int, tags: list[str] | None, *, beat: bool) -> None:
        notice = Notice(
            stream=STREAM, epoch=self.epoch, partition=p, session=self.sessions[p], from_=from_, to=self.places[p],
            tags=tags, created=str(self.epoch) if beat else "",
        )  # fmt: skip
        for process in self.processes:
            if process.online:
                process.network.append((notices.encode(notice), beat))

    # --- the processes' connections --------------------------------------------------------

    def connect(self, process: Process) -> None:
        if not process.online:
            process.online = True
            process.cache.connected()
            process.by_hand = {id_: max(one.by_hand[id_] for one in self.processes) for id_ in IDS}
            process.sessions.clear()
            self.idle(process)

    def idle(self, process: Process) -> None:
        """The partitions without facts of ours follow the log, and say so."""
        if process.online:
            for p in set(range(limits.PARTITIONS)) - set(self.places):
                at = len(self.log)
                said = Notice(
                    stream=STREAM, epoch=self.epoch, partition=p, session=f"idle {self.epoch}", from_=at, to=at,
                    tags=[], created=str(self.epoch),
                )  # fmt: skip
                process.cache.hear_beat(notices.encode(said))

    def disconnect(self, process: Process) -> None:
        if process.online:
            process.online = False
            process.network.clear()
            process.told.clear()
            process.cache.disconnected()
            process.sessions.clear()
            self.settle()

    def restart(self, at: int) -> None:
        """It knows nothing any more, and nothing that was said to it counts."""
        self.disconnect(self.processes[at])
        self.run(self.processes[at].cache.close())
        old = self.processes[at]
        self.processes[at] = self.run(self._process())
        self.processes[at].by_hand = old.by_hand  # what was evicted by hand before it began counts, whoever did it
        self.connect(self.processes[at])

    async def _process(self) -> Process:
        return Process(self)

    def deliver(self, process: Process, p: int) -> None:
        """The next message of a partition comes."""
        for at, (body, beat) in enumerate(process.network):
            notice = notices.decode(body)
            if notice.partition == p:
                del process.network[at]
                self.judge(process, notice, beat=beat)
                (process.cache.hear_beat if beat else process.cache.hear)(body)
                self.settle()
                return

    def say(self, by: Process, said: ByHand) -> None:
        told, by.unsaid = by.unsaid, {}  # what was said while nobody could hear is only in the record
        for process in self.processes:
            if process.online and by.online:
                process.told.append((told, encode(said)))

    def hear(self, process: Process) -> None:
        """The next message about what was evicted by hand comes."""
        if process.told:
            when, body = process.told.pop(0)
            assert process.cache.by_hand.hear(body)
            for id_, at in when.items():
                process.by_hand[id_] = max(process.by_hand[id_], at)
            self.settle()

    def lose_record(self) -> None:
        """It leaves the tier, and with it what only it knew; nobody is told."""
        self.tier.held.pop("by-hand", None)

    def deliver_all(self) -> None:
        for process in self.processes:
            while process.network:
                self.deliver(process, notices.decode(process.network[0][0]).partition)

    def judge(self, process: Process, notice: Notice, *, beat: bool) -> None:
        """What a receiver knows after this, by the words of the protocol alone."""
        p = notice.partition
        new = process.sessions.get(p) != notice.session
        reached = process.reached.get(p)
        broken = new or (not beat and reached is not None and reached != notice.from_)
        process.sessions[p] = notice.session
        process.reached[p] = (None if new else reached) if beat else notice.to
        for id_ in IDS:
            if PARTITION[id_] == p and (broken or (not beat and (notice.tags is None or f"note:{id_}" in notice.tags))):
                process.known[id_] = max(process.known[id_], self.version(id_, (notice.epoch, notice.to)))

    # --- loads -----------------------------------------------------------------------------

    async def load(self, id_: str) -> Loaded:
        begun = self.time
        sees: asyncio.Future[Any] = self.loop.create_future()
        self.loads.append((sees, id_, begun))
        tables = await sees
        marks = {(STREAM, p): place for p, place in tables.items()}
        return Loaded((id_, self.version(id_, tables[PARTITION[id_]]), begun), marks)

    def ask(self, process: Process, id_: str, watermark: Watermark | None = None) -> None:
        """`watermark`: of a fact about it, with the epoch."""
        self.time += 1
        self.asked = [task for task in self.asked if not task.done()]
        if len(self.asked) < 12:
            known, by_hand = process.known[id_], process.by_hand[id_]
            if watermark is not None and watermark.epoch is not None:
                known = max(known, self.version(id_, (watermark.epoch, watermark.seq)))

            async def asking() -> None:
                try:
                    self.check(await process.note(id_, min_watermark=watermark), id_, known, by_hand)
                except (errors.CacheClosed, errors.TablesBehind):
                    pass

            self.asked.append(self.loop.create_task(asking()))
            self.settle()

    def ask_for_the_last(self, process: Process, id_: str) -> None:
        """To see the last fact about it."""
        seq = max((seq for seq, one in enumerate(self.log, 1) if one == id_), default=0)
        if seq:
            self.ask(process, id_, Watermark(id_, seq, epoch=self.epoch))

    def see(self, at: int, lag: int) -> None:
        """A load reads the tables, of the primary (0) or of a replica that lags, and ends."""
        if self.loads:
            sees, _, _ = self.loads.pop(at % len(self.loads))
            if not sees.done():
                sees.set_result(self.tables[max(0, len(self.tables) - 1 - lag)])
                self.settle()

    def land(self, at: int) -> None:
        """Something that was put into the tier some time ago arrives."""
        if self.tier.waiting:
            self.tier.land(at)

    def evict(self, process: Process, id_: str) -> None:
        self.time += 1
        process.by_hand[id_] = process.unsaid[id_] = self.time
        self.run(self._by_hand(process, lambda: process.cache.evict(f"note:{id_}")))

    def forget(self, process: Process, id_: str) -> None:
        self.time += 1
        process.by_hand[id_] = process.unsaid[id_] = self.time
        self.run(self._by_hand(process, lambda: process.note.evict(id_)))

    async def _by_hand(self, process: Process, evict: Callable[[], object]) -> None:
        evict()
        assert process.cache.tiers is not None
        assert await process.cache.tiers.eras.known(1.0)
        await asyncio.sleep(0)  # what began before it ends, too, and tells the others

    def passes(self, seconds: float) -> None:
        self.now += seconds
        for process in self.processes:
            process.cache.l1.sweep()
        self.settle()

    # --- what must hold --------------------------------------------------------------------

    def check(self, answer: tuple[str, int, int], id_: str, known: int, by_hand: int) -> None:
        try:
            assert answer[0] == id_
            assert answer[1] >= known, f"{id_}: version {answer[1]}, a notice has told of {known}"
            assert answer[2] >= by_hand, f"{id_}: loaded at {answer[2]}, evicted by hand at {by_hand}"
        except AssertionError as exc:
            self.failures.append(exc)

    @invariant()
    def nothing_old_is_served(self) -> None:
        for process in self.processes:
            for id_ in IDS:
                answer = process.note.peek(id_)
                if answer is not None:
                    self.check(answer, id_, process.known[id_], process.by_hand[id_])
        if self.failures:
            raise self.failures[0]

    @rule(seed=st.integers(0, 2**32), steps=st.lists(st.integers(0, 99), min_size=1, max_size=4))
    def happens(self, seed: int, steps: list[int]) -> None:
        rng = random.Random(seed)
        for step in steps:
            STEPS[step % len(STEPS)](self, rng)

    def teardown(self) -> None:
        for sees, _, _ in self.loads:
            sees.cancel()
        for process in self.processes:
            assert process.cache.tiers is not None
            self.hits += process.cache.tiers.outcomes()["l2"].get("hit", 0)
            self.run(process.cache.close())
        for task in self.asked:
            task.cancel()
        self.run(self._ended())
        self.loop.close()

    async def _ended(self) -> None:
        await asyncio.gather(*self.asked, return_exceptions=True)


def _one(w: Fleet, r: random.Random) -> Process:
    return r.choice(w.processes)


def _p(r: random.Random) -> int:
    return PARTITION[r.choice(IDS)]


def _whole(w: Fleet, r: random.Random) -> None:
    """One process asks, and what it loads is there for others."""
    w.ask(_one(w, r), r.choice(IDS))
    w.see(-1, 0)
    w.land(-1)


def _lost(w: Fleet, r: random.Random) -> None:
    """What was evicted by hand is on no record, and whoever knew of it is gone."""
    id_ = r.choice(IDS)
    w.evict(w.processes[0], id_)
    w.lose_record()
    w.restart(0)
    w.restart(1)
    w.all_beat()
    w.ask(w.processes[1], id_)


def _told(w: Fleet, r: random.Random) -> None:
    """One process has an answer that another evicts by hand, and hears of that."""
    id_ = r.choice(IDS)
    w.ask(w.processes[1], id_)
    w.see(-1, 0)
    w.evict(w.processes[0], id_)
    w.hear(w.processes[1])


def _overtaken(w: Fleet, id_: str, *, names: bool = True) -> None:
    """An answer is in the tier, and a fact about it in the tables."""
    w.ask(w.processes[0], id_)
    w.see(-1, 0)
    w.land(-1)
    w.publish(id_)
    for p in w.places:
        w.commit(p, crash=False, names=names)


def _left(w: Fleet, r: random.Random) -> None:
    """A fact about what is in the tier has left the log when somebody begins."""
    id_ = r.choice(IDS)
    _overtaken(w, id_)
    w.trim()
    w.restart(1)
    w.all_beat()
    w.ask(w.processes[1], id_)


def _anew(w: Fleet, r: random.Random) -> None:
    """A new log, and somebody who wants to see its first fact."""
    id_ = r.choice(IDS)
    if r.random() < 0.5:
        w.all_at_once(id_)
        w.ask(w.processes[0], id_)
        w.see(-1, 0)
    w.make_anew()
    w.publish(id_)
    w.ask_for_the_last(w.processes[0], id_)


def _replaced(w: Fleet, r: random.Random) -> None:
    """A new log, as long as the old one, of which nobody has been told when it is asked."""
    id_ = r.choice(IDS)
    _overtaken(w, id_, names=False)
    w.deliver_all()
    length = len(w.log)
    w.make_anew()
    for _ in range(length):
        w.publish(r.choice([other for other in IDS if other != id_]))
    w.ask(w.processes[0], id_)


STEPS: list[Callable[[Fleet, random.Random], None]] = [
    lambda w, r: w.publish(r.choice(IDS)),
    lambda w, r: w.commit(_p(r), crash=r.random() < 0.2, names=r.random() < 0.8),
    lambda w, r: w.all_at_once(r.choice(IDS)),
    lambda w, r: w.beat(_p(r)),
    lambda w, r: w.idle(_one(w, r)),
    lambda w, _: w.all_beat(),
    lambda w, r: w.deliver(_one(w, r), _p(r)),
    lambda w, r: w.deliver(_one(w, r), _p(r)),
    lambda w, _: w.deliver_all(),
    lambda w, r: w.lose(_p(r)) if r.random() < 0.5 else None,
    lambda w, r: w.connect(_one(w, r)),
    lambda w, r: w.disconnect(_one(w, r)) if r.random() < 0.3 else None,
    lambda w, r: w.restart(r.randrange(2)) if r.random() < 0.5 else None,
    lambda w, _: w.trim(),
    lambda w, r: _anew(w, r) if r.random() < 0.2 else None,
    lambda w, r: w.ask_for_the_last(_one(w, r), r.choice(IDS)),
    _whole,
    _whole,
    lambda w, r: w.ask(_one(w, r), r.choice(IDS)),
    lambda w, r: w.see(r.randrange(3), r.choice([0, 0, 1, 3])),
    lambda w, r: w.land(r.randrange(3)),
    lambda w, r: w.passes(r.choice([1.0, 60.0, 101.0])),
    lambda w, r: w.evict(_one(w, r), r.choice(IDS)) if r.random() < 0.3 else None,
    lambda w, r: w.forget(_one(w, r), r.choice(IDS)) if r.random() < 0.3 else None,
    lambda w, r: w.hear(_one(w, r)),
    lambda w, r: w.lose_record() if r.random() < 0.2 else None,
    lambda w, r: _lost(w, r) if r.random() < 0.2 else None,
    lambda w, r: _told(w, r) if r.random() < 0.2 else None,
    lambda w, r: _left(w, r) if r.random() < 0.2 else None,
    lambda w, r: _replaced(w, r) if r.random() < 0.2 else None,
]


QUICK = settings(max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("remembered", [limits.CACHE_EVICTED_TAGS_MAX, 1])
def test_no_process_serves_what_is_older_than_the_last_eviction_it_received(
    remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CACHE_EVICTED_TAGS_MAX", remembered)
    run_state_machine_as_test(Fleet, settings=QUICK)


def play(seed: int, steps: int = 80) -> int:
    """The machine by plain chance; how often the tier had what was asked for."""
    rng = random.Random(seed)
    world = Fleet()
    try:
        for _ in range(steps):
            rng.choice(STEPS)(world, rng)
            world.nothing_old_is_served()
    finally:
        world.teardown()
    return world.hits


def _lifts_too_far(original: Callable[..., Any]) -> Callable[..., Any]:
    def places(self: Evictions, tags: Any) -> Any:
        return {source: (epoch, seq + 3) for source, (epoch, seq) in original(self, tags).items()}

    return places


def _proves_unheard(self: Evictions, tags: Any, marks: Any) -> bool:
    return not self.is_evicted(tags, marks)


def _of_any_birth(original: Callable[..., bytes]) -> Callable[..., bytes]:
    def digest(known: Any, *args: Any) -> bytes:
        return original({what: era for what, era in known.items() if what != eras.BIRTH}, *args)

    return digest


def _hears_nothing(self: Any, body: bytes) -> bool:
    del self, body
    return True


def _sequences_alone(marks: Any, required: Any) -> bool:
    return any(marks.get(source, (1, 0))[1] < place[1] for source, place in required.items())


def _any_log(self: Evictions, place: Any, watermark: Watermark) -> bool:
    del self
    return bool(place[1] >= watermark.seq)


def _window_forgotten(original: Callable[..., bool]) -> Callable[..., bool]:
    def is_proved(filters: Any, ends: LogEnds, *args: Any) -> bool:
        return original(filters, msgspec.structs.replace(ends, first=1), *args)

    return is_proved


def _whichever_log(original: Callable[..., bool]) -> Callable[..., bool]:
    def is_proved(filters: Any, ends: LogEnds, marks: Any, heard: Any, created: str) -> bool:
        return original(filters, msgspec.structs.replace(ends, created=created), marks, heard, created)

    return is_proved


PLANTED: dict[str, tuple[type[Any] | Any, str, Any]] = {
    "believes whatever it finds": (Evictions, "proves", lambda *_: True),
    "believes what it was told nothing about": (Evictions, "proves", _proves_unheard),
    "says it has seen more than it heard": (Evictions, "places", _lifts_too_far(Evictions.places)),
    "stores what was overtaken": (Evictions, "may_keep", lambda *_: True),
    "takes back what was evicted by hand": (eras, "digest", lambda *_: b""),
    "takes a record that was lost for one without evictions": (eras, "digest", _of_any_birth(eras.digest)),
    "is told of an eviction by hand, and goes on": (ByHands, "hear", _hears_nothing),
    "takes the log's word for anything": (proving, "is_proved", lambda *_: True),
    "takes a place in the old log for one in the new": (eviction, "is_behind", _sequences_alone),
    "takes a fact of the new log for one of the old": (Evictions, "has", _any_log),
    "takes what left the log for what never was": (proving, "is_proved", _window_forgotten(proving.is_proved)),
    "takes the new log's word for the old one": (proving, "is_proved", _whichever_log(proving.is_proved)),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(bug: str, monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    where, name, planted = PLANTED[bug]
    monkeypatch.setattr(where, name, planted)
    first = rng.getrandbits(32)
    with pytest.raises(AssertionError, match=r"version|loaded at"):
        for n in range(2_000):
            play(first + n)


def test_without_planted_bugs_plain_chance_finds_nothing(rng: random.Random) -> None:
    first = rng.getrandbits(32)
    assert sum(play(first + n) for n in range(soak_rounds(30))), "no answer came from the tier"
