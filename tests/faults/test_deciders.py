"""Deciders whose broker is killed, and deciders with a defect."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus.connection import NatsConfig
from coord.core.deciding import Effect, Folding, Push, State
from coord.core.retry import ONCE
from coord.core.task_decider import TaskDecider
from coord.server.decider_service import DeciderService
from coord.server.queues import Queues
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.envelope import StoredFact
from tests.support.deciding import Hand
from tests.support.waiting import until

Start = Callable[..., Awaitable[DeciderService]]


@pytest.fixture
async def hand(nats) -> AsyncIterator[Hand]:
    found = await Hand.open(nats.url)
    yield found
    await found.close()


@pytest.fixture
async def start(nats, monkeypatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(limits, "REPLICA_BEAT_S", 0.05)
    started: list[DeciderService] = []

    async def begin(**options: Any) -> DeciderService:
        service = DeciderService(NatsConfig(urls=(nats.url,)), registry=Metrics(CollectorRegistry()), **options)
        started.append(service)
        await service.start()
        await service.wait_ready(100)
        return service

    yield begin
    for service in started:
        await service.drain()
        await service.stop()


async def test_a_killed_broker_loses_no_decision(nats, hand, start, rounds, record_property) -> None:
    """What was acknowledged is decided; what had ended is settled again when it is delivered again."""
    service = await start()
    await hand.open_queues()
    took: list[float] = []
    for n in range(rounds):
        ids = [f"r{n}-{i}" for i in range(20)]
        for id_ in ids:
            await hand.submit(id_, instance="me1")
            await hand.claim(id_, 1, instance="dead")
        for id_ in ids[:10]:
            await hand.complete(id_)
        nats.kill()
        began = time.monotonic()
        await nats.start()
        await hand.conn.wait_connected(100)
        await until(lambda: all(p.phase in ("running", "standby") for p in service.partitions))

        def released(left: int = 10 * (n + 1)) -> bool:
            service.gone("acme", "w1", "dead", 0.0)
            held = [d for d in service.deciders() if isinstance(d, TaskDecider)]
            return not any(d.usage() for d in held) and sum(d.open_count() for d in held) == left

        await until(released, 60, every_s=0.05)
        took.append(time.monotonic() - began)
        told = {t["id"] for t in hand.told("me", "ended")}
        assert told <= {f"r{r}-{i}" for r in range(n + 1) for i in range(10)}
        for id_ in ids:
            expected = ["submitted", "claimed.1", "completed" if id_ in ids[:10] else "released.1"]
            assert await hand.events(id_) == expected
    print(f"all decided {max(took):.2f} s after the kill")
    record_property("decided_after_s", max(took))


class Careless(Folding):
    """Raises at every second fact, states nonsense at the others."""

    name = "careless"
    kinds = frozenset({"task"})

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        self.count += 1
        if self.count % 2:
            raise ValueError("a defect")
        where: dict[str, Any] = {"tenant": fact.tenant, "key": fact.key, "kind": "task", "id": fact.id}
        return [
            Push(fact.tenant, fact.agent, None, "x", object()),
            State(**where, agent="_x", event="no such event", once="event", step="x", data=object()),
        ]

    def tick(self, now: float, presence: Any) -> Iterable[Effect]:
        yield from ()
        raise ValueError("another defect")

    def dump(self) -> Any:
        return None

    def load(self, dumped: Any) -> None:
        """Nothing."""


async def test_a_defect_of_one_decider_is_nobody_elses(hand, start) -> None:
    service = await start(factory=lambda _: [Careless(), TaskDecider()])
    await hand.open_queues()
    for n in range(6):
        await hand.submit(f"t{n}", instance="me1")
        await hand.claim(f"t{n}", 1)
        await hand.complete(f"t{n}")
    await until(lambda: len(hand.told("me", "ended")) == 6)
    value = service.metrics.registry.get_sample_value
    await until(lambda: (value("coord_decider_defects_total", {"decider": "careless"}) or 0) >= 9)
    await until(lambda: value("coord_decider_statements_total", {"decider": "_x", "outcome": "invalid"}))


async def test_capabilities_are_bounded_and_unused_ones_make_room(hand, start, monkeypatch) -> None:
    service = await start()
    monkeypatch.setattr(limits, "CAPABILITIES_MAX", 3)
    for n in range(3):
        await hand.open_queues(f"c{n}")
    with pytest.raises(errors.TooManyCapabilities):
        await hand.open_queues("c3", ONCE)  # it may be tried again, but nothing would change
    # A plain client's submission to one more waits, and is seen to.
    waiting = await hand.submit("t1", "c3")
    queues = service._queues
    assert isinstance(queues, Queues)
    await hand.submit("t2", "c2")  # used: it stays
    assert await queues.sweep(unused_s=3_600.0) == []
    removed = await queues.sweep(unused_s=0.0)
    assert {subjects.parse_queue(name) for name in removed} == {
        ("acme", f"c{n}", queue) for n in range(2) for queue in ("critical", "normal", "batch")
    }
    # It is looked often, not once: at the first look the submission may be too young, or not folded yet.
    monkeypatch.setattr("coord.core.task_decider._OPEN_EVERY_S", 0.1)
    monkeypatch.setattr("coord.core.task_decider._OPEN_AFTER_S", 0.1)

    async def there() -> bool:
        try:
            await hand.conn.api(f"CONSUMER.INFO.EVENTS.{subjects.queue('acme', 'c3', 'normal')}")
        except errors.ApiNotFound:
            return False
        return True

    await until(there)
    await hand.pull("c3")
    await until(lambda: hand.times(waiting) == 1)


async def test_a_forged_release_does_not_stand_in_the_way_of_the_real_one(hand, start) -> None:
    """Nobody believes it, but it is in the log, under the event that deciders state once."""
    service = await start()
    await hand.open_queues()
    await hand.pull()
    seq = await hand.submit("t1")
    await hand.claim("t1", 1, instance="i1")
    await hand.conn.request("coord.ev.acme.eve.t1.task.t1.released.1", b"{}")
    await until(lambda: hand.times(seq) == 1)

    def moved() -> bool:
        service.gone("acme", "w1", "i1", 0.0)
        return bool(hand.times(seq) >= 2)

    await until(moved, every_s=0.05)
    task = await hand.task("t1")
    assert task is not None
    assert (task.status, task.deaths) == ("queued", 1)


async def test_hostile_facts_about_tasks_change_nothing(hand, start) -> None:
    service = await start()
    await hand.open_queues()
    await hand.submit("t1", input=1, instance="me1")
    await hand.claim("t1", 1)
    for event, detail, data in (
        ("completed", (), {"claim": 1, "output": "forged"}),
        ("completed", ("x",), {}),
        ("failed", (), {"claim": 7}),
        ("claimed", ("2",), {}),
        ("claimed", ("one",), {}),
        ("claimed", (), {}),
        ("returned", ("1",), {}),
        ("cancelled", (), {}),
        ("submitted", ("work", "normal"), {"input": 2}),
        ("submitted", ("work", "odd"), {}),
        ("submitted", (), {}),
        ("progress", (), {"done": "half"}),
    ):
        await hand.state("eve", "t1", event, *detail, data=data)
    for body in (b"[1]", b"{", b"\x00", b'{"claim":"one"}'):
        await hand.conn.request("coord.ev.acme.w1.t1.task.t1.completed", body)
    await hand.conn.request("coord.ev.acme.eve.t1.task.t1.released.1", b"{}")  # a decider's to say
    await hand.complete("t1", claim=1, output="mine")
    (told,) = await until(lambda: hand.told("me", "ended"))
    assert told["output"] == "mine"
    await until(lambda: service.metrics.registry.get_sample_value(
        "coord_decider_refused_facts_total", {"reason": "task.not_claimant"}))  # fmt: skip
    assert not service.metrics.registry.get_sample_value("coord_decider_defects_total", {"decider": "tasks"})
