"""Two services, one fed by the other's consumer now and then: each has what it wants, once and in order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus import topology
from coord.bus.pull import PinnedReader
from coord.bus.riding import Meeting, Ride, Wanted
from coord.bus.shared import SharedConsumer, SharedReader
from coord.bus.topology import load
from coord.core.gathering import Gathering, Policy
from coord.runtime import assets
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from tests.support.lending import Consumer, Memory, begin

DEFINED = load(assets.streams_dir())
SPECS = {name: DEFINED.get(f"EVENTS/{name}-0") for name in ("projector", "decider")}
KINDS = ("task", "note", "workflow", "agent")
MESSAGES = 200
AT_ONCE = Policy(pause_s=0, pause_max_s=0, patience_s=0)


def stored(p: int, kind: str, event: str = "said") -> bytes:
    return f"coord.log.{p}.t.k.{kind}.n.a.{event}".encode()


class Reading:
    """One service's sixteen readers, and what reads for them."""

    def __init__(self, name: str, memory: Memory, rng: random.Random, **meeting: Meeting) -> None:
        spec = SPECS[name]
        assert spec is not None
        self.filters = topology.filters_anywhere(spec) or None
        self.rng = rng
        self.memory = memory
        self.stuck = False
        """It takes nothing."""
        self.got: list[list[int]] = [[] for _ in range(limits.PARTITIONS)]
        self.readers = []
        for p in range(limits.PARTITIONS):
            prefix = subjects.partition_filter("EVENTS", p)[:-1].encode()
            memory.consumers[f"{name}-{p}"] = Consumer(prefix, 1, self.filters)
            self.readers.append(PinnedReader(memory, "EVENTS", f"{name}-{p}", messages_max=20))  # type: ignore[arg-type]
        metrics = Metrics(CollectorRegistry())
        self.shared = SharedReader(memory, "EVENTS", self.readers, spec, metrics, **meeting)  # type: ignore[arg-type]
        self.shared._gathering, self.shared._rides = Gathering(AT_ONCE), Gathering(AT_ONCE)
        for gathering in (self.shared._gathering, self.shared._rides):
            gathering.alone(True, 0)

    @property
    def riding(self) -> bool:
        return isinstance(self.shared._consumer, Ride)

    async def begin(self, p: int) -> None:
        """A session from where the last one ended."""
        await begin(self.readers[p], self.got[p])

    async def look(self) -> None:
        """What `run` does when something has changed."""
        try:
            await self.shared._look()
        except errors.CoordError as exc:
            await self.shared._part(exc)

    async def take(self, p: int, most: int = 9) -> None:
        if self.stuck:
            return
        try:
            taken = self.readers[p].take(self.rng.randrange(1, most))
        except errors.CoordError:
            await self.begin(p)
            return
        keep = self.rng.randrange(len(taken) + 1)
        self.readers[p].put_back(taken[keep:])
        self.got[p] += [d.seq for d in taken[:keep]]
        if keep and self.rng.random() < 0.5:
            self.readers[p].ack(taken[keep - 1])

    def wanted(self, p: int) -> list[int]:
        consumer = Consumer(subjects.partition_filter("EVENTS", p)[:-1].encode(), 1, self.filters)
        return [seq for seq, m in enumerate(self.memory.messages, 1) if consumer.wants(m)]

    def short(self) -> list[int]:
        return [p for p in range(limits.PARTITIONS) if self.got[p] != self.wanted(p)]


class Run:
    """Projector and deciders over one broker."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.memory = Memory(self.rng)
        meeting = Meeting()
        self.projector = Reading("projector", self.memory, self.rng, offers=meeting)
        self.deciders = Reading("decider", self.memory, self.rng, seeks=meeting)
        self.both = (self.projector, self.deciders)
        self.seen: Counter[str] = Counter()

    def say(self) -> None:
        kind = self.rng.choice(KINDS)
        event = self.rng.choice(("registered", "status"))
        self.memory.messages.append(stored(self.rng.randrange(limits.PARTITIONS + 1), kind, event))

    async def begin(self) -> None:
        for service in self.both:
            for p in range(limits.PARTITIONS):
                await service.begin(p)

    async def all(self, loss: float) -> None:
        rng, memory = self.rng, self.memory
        memory.lose = lambda: rng.random() < loss
        await self.begin()
        for step in range(300):
            if len(memory.messages) < MESSAGES:
                self.say()
            memory.turn()
            service = rng.choice(self.both)
            p, what = rng.randrange(limits.PARTITIONS), rng.random()
            if what < 0.2:
                await service.look()
                self.seen["riding"] += self.deciders.riding
            elif what < 0.21:
                await service.shared._part(None)
            elif what < 0.22:
                await service.readers[p].reclaim()
            elif what < 0.23:
                await service.begin(p)
            elif what < 0.24:
                service.stuck = not service.stuck
            elif what < 0.3:
                memory.expire()
            else:
                for p in range(limits.PARTITIONS):
                    await service.take(p)
            if step % 3 == 0:
                await asyncio.sleep(0)
        memory.lose = lambda: False
        for turn in range(1, 1_000):
            if not (self.projector.short() or self.deciders.short()):
                return
            memory.turn()
            memory.expire()
            for service in self.both:
                service.stuck = False
                await service.look()
                for p in service.short():
                    await service.take(p)
                    if loss and turn % 50 == 0:
                        await service.begin(p)
            await asyncio.sleep(0)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.01]))
def test_each_service_has_what_it_wants_once_and_in_order(seed: int, loss: float) -> None:
    async def go() -> Run:
        run = Run(seed)
        async with asyncio.timeout(60):
            await run.all(loss)
        return run

    run = asyncio.run(go())
    for service in run.both:
        for p in range(limits.PARTITIONS):
            assert service.got[p] == service.wanted(p), f"partition {p}"


async def riding() -> Run:
    """The deciders ride, and everything was taken."""
    run = Run(1)
    await run.begin()
    for _ in range(200):
        if run.deciders.riding:
            break
        run.memory.messages.append(stored(0, "task"))
        run.memory.turn()
        for service in run.both:
            await service.look()
            await service.take(0)
    assert run.deciders.riding
    return run


async def told(run: Run, service: Reading) -> None:
    """Until partition 0 of a service has everything."""
    for _ in range(500):
        if not service.short():
            return
        run.memory.turn()
        run.memory.expire()
        await service.look()
        await service.take(0)
        await asyncio.sleep(0)
    raise AssertionError(service.short())


async def test_the_broker_delivers_what_both_want_once() -> None:
    run = await riding()
    await told(run, run.deciders)
    before = sum(consumer.sent for consumer in run.memory.consumers.values())
    run.memory.messages += [stored(0, "task")] * 10
    for service in run.both:
        await told(run, service)
    assert sum(consumer.sent for consumer in run.memory.consumers.values()) == before + 10


async def test_a_projector_without_room_keeps_nobody_waiting() -> None:
    run = await riding()
    run.projector.stuck = True
    carrier = run.projector.shared._consumer
    assert isinstance(carrier, SharedConsumer)
    run.memory.messages += [stored(0, "task")] * 500
    for _ in range(5_000):
        run.memory.turn()
        await run.deciders.take(0, most=50)
        if not run.deciders.riding or not run.deciders.short():
            break
        await run.deciders.look()
    assert not run.deciders.riding
    await told(run, run.deciders)
    assert run.projector.short()


async def test_deciders_without_room_keep_nobody_waiting() -> None:
    run = await riding()
    await told(run, run.projector)
    run.deciders.stuck = True
    run.memory.messages += [stored(0, "task")] * 100
    await told(run, run.projector)
    ride = run.deciders.shared._consumer
    assert isinstance(ride, Ride)
    assert ride.is_over
    assert run.deciders.readers[0].buffered <= 20
    run.deciders.stuck = False
    await told(run, run.deciders)


async def test_a_defect_while_riders_are_fed_loses_them_nothing(monkeypatch: Any) -> None:
    run = await riding()
    await told(run, run.deciders)
    ride = run.deciders.shared._consumer
    assert isinstance(ride, Ride)

    def fails(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(ride._feeding, "feed", fails)
    run.memory.messages += [stored(0, "task")] * 5
    for _ in range(100):
        if ride.is_over:
            break
        try:
            run.memory.turn()
        except RuntimeError:
            continue
    assert ride.is_over
    await run.deciders.look()
    await told(run, run.deciders)


@pytest.mark.parametrize(
    ("subject", "wanted"),
    [
        (stored(3, "task"), True),
        (stored(3, "note"), False),
        (stored(3, "agent", "registered"), True),
        (stored(3, "agent", "registered.twice"), False),
        (stored(3, "agent", "gone"), False),
        (stored(3, "agent", "gone.1"), True),
        (stored(3, "agent", "status"), False),
        (b"coord.log.3.t.k.task", False),
        (b"coord.log.3", False),
    ],
)
def test_what_a_decider_wants_is_what_its_consumer_lets_through(subject: bytes, wanted: bool) -> None:
    spec = SPECS["decider"]
    assert spec is not None
    assert (subject in Wanted(topology.filters_anywhere(spec))) is wanted


async def test_who_ends_a_ride_that_only_waits_is_not_told() -> None:
    """He looks, and looking ends it: told so, he would look again without end, and the loop would stand still."""
    carrier: Any = SimpleNamespace(position=1, expects=True, ride=None)
    own: Any = SimpleNamespace(position=2 + limits.RIDE_AHEAD_MAX, leaving=None, stop=lambda: None)
    changed = asyncio.Event()
    spec = SPECS["decider"]
    assert spec is not None
    wanted = Wanted(topology.filters_anywhere(spec))
    waiting = Ride(carrier, own, [], wanted, changed)
    waiting.board()
    await waiting.end()
    assert (waiting.aboard, carrier.ride, own.leaving, changed.is_set()) == (False, None, None, False)
    aboard = Ride(carrier, own, [], wanted, changed)
    carrier.position = own.position
    aboard.board()
    assert (aboard.aboard, changed.is_set()) == (True, True)
    changed.clear()
    aboard.put_off(carrier.position)
    assert changed.is_set()
