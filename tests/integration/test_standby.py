"""More idle workers than seats: few wait at the broker, a burst is everybody's, and those who waited may die."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

import coord
from coord import limits
from coord.bus import rpc
from coord.bus.connection import NatsConfig
from coord.server.board import BoardService
from coord.telemetry.metrics import Metrics
from coord.wire import subjects, work
from tests.support.holding import FEW_SEATS, SEATS, WORKERS, Holding
from tests.support.tasks import Fleet
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def few_seats(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FEW_SEATS.items():
        monkeypatch.setattr(limits, name, value)


@pytest_asyncio.fixture(loop_scope="module")
async def board(fleet: Fleet, few_seats: None) -> AsyncIterator[BoardService]:
    config = NatsConfig(urls=(fleet.url,), reconnect_wait_s=0.05)
    registry = Metrics(CollectorRegistry())
    async with BoardService(config, fleet.presence.board, fleet.deciders.deciders, registry=registry) as found:
        await found.wait_ready(60)
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def holding(fleet: Fleet, few_seats: None) -> AsyncIterator[Holding]:
    found = Holding(fleet.url, fleet.tenant, fleet.client)
    async with contextlib.AsyncExitStack() as stack:
        await found.start(stack)
        yield found


@pytest.mark.usefixtures("board")
async def test_few_wait_and_bursts_are_begun_by_all_while_somebody_watches(fleet: Fleet, holding: Holding) -> None:
    watched = await fleet.conn.subscribe_bytes("coord.>", lambda *_: None)
    await holding.settled()
    consumer = subjects.queue(fleet.tenant, "hold", "normal")
    async with asyncio.timeout(90):
        while int((await fleet.conn.api(f"CONSUMER.INFO.EVENTS.{consumer}"))["num_waiting"]) >= 2 * SEATS:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for _ in range(2):
        await holding.do(WORKERS)
        await holding.settled()
    await watched.unsubscribe()


@pytest.mark.usefixtures("board")
async def test_who_comes_where_a_crowd_waits_stands_by_without_having_pulled(fleet: Fleet, holding: Holding) -> None:
    """A fleet that comes together leaves no more pulls with the broker than one that has been there."""
    await holding.settled()
    asked = {"capability": "hold", "seated": True}
    service = subjects.rpc(fleet.tenant, "queue", "waiting")
    agent = coord.Agent("late", capabilities={"hold": 1}, drain_s=0)
    agent.task("hold")(holding._hold)
    inbox = fleet.conn.new_inbox()
    crowd = await fleet.conn.subscribe_bytes(inbox + ".*", lambda *_: None)
    for queue in work.PRIORITIES:  # as many as make one
        for n in range(2 * SEATS):
            request = f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{subjects.queue(fleet.tenant, 'hold', queue)}"
            fleet.conn.publish(request, b'{"batch":1,"expires":600000000000}', reply=f"{inbox}.{queue}{n}")
    async with asyncio.timeout(90):
        while (await rpc.call(fleet.conn, service, asked, dict[str, Any]))["waiting"] < 2 * SEATS:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    async with agent.connect(fleet.url, tenant=fleet.tenant) as late:
        assert late.seat("hold") == "standing"
        assert late._pullers["hold"]._subscription is None, "it has pulled"
        await crowd.unsubscribe()
        holding.workers.append(late)
        await holding.do(len(holding.workers))  # it is woken as all others are
        holding.workers.remove(late)


@pytest.fixture
def beating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Very few beats are too many, and what holds something or waits beats often."""
    monkeypatch.setattr(limits, "RESTING_BEATS_PER_S", 0.01)
    monkeypatch.setattr(limits, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(limits, "HEARTBEAT_IDLE_S", 0.4)
    monkeypatch.setattr("coord.client.beating._BUSY_AFTER_S", 0.1)


@pytest.mark.usefixtures("beating", "board")
async def test_who_stands_by_beats_rarely_until_it_has_something(fleet: Fleet, holding: Holding) -> None:
    def due() -> dict[str, float]:
        return {row.instance: row.due_s for row in fleet.presence.board.table.rows(fleet.tenant, "hold")}

    await holding.settled()
    await until(
        lambda: all(
            due()[worker.instance] == (limits.HEARTBEAT_EVERY_MAX_S if worker in holding.standing() else 0.4)
            for worker in holding.workers
        )
    )
    holding.go.clear()
    holding.begun = 0
    async with fleet.client() as c:
        handles = await c.submit_many("hold", [None] * WORKERS)
        await until(lambda: holding.begun == WORKERS)
        await until(lambda: set(due().values()) == {limits.HEARTBEAT_S})
        holding.go.set()
        await asyncio.gather(*(handle.result(timeout_s=90) for handle in handles))


@pytest.mark.usefixtures("unsuspecting", "board")
async def test_when_all_who_waited_have_died_others_sit_down_and_take_what_comes(holding: Holding) -> None:
    await holding.settled()
    for worker in holding.seated():
        holding.workers.remove(worker)
        await worker.conn.close()
    await until(lambda: len(holding.seated()) >= SEATS)
    for worker in holding.seated():
        holding.workers.remove(worker)
        await worker.conn.close()
    await holding.do(len(holding.workers))


@pytest.mark.usefixtures("board")
async def test_wakes_that_are_lost_are_repeated(fleet: Fleet, holding: Holding) -> None:
    """Some of those who listen are no workers, and take what is meant for them."""
    await holding.settled()
    lost = 0

    def lose(*_: bytes) -> None:
        nonlocal lost
        lost += 1

    subject = subjects.wake(fleet.tenant, "hold")
    thieves = [await fleet.conn.subscribe_bytes(subject, lose, queue=subjects.WAKE_GROUP) for _ in range(4)]
    await fleet.conn.flush()
    await holding.do(WORKERS)
    assert lost
    for thief in thieves:
        await thief.unsubscribe()


@pytest.mark.usefixtures("board")
async def test_pulls_of_plain_clients_at_one_priority_make_no_crowd(fleet: Fleet, holding: Holding) -> None:
    inbox = fleet.conn.new_inbox()
    plain = await fleet.conn.subscribe_bytes(inbox + ".*", lambda *_: None)
    consumer = subjects.queue(fleet.tenant, "hold", "normal")
    await holding.settled()
    for n in range(4 * SEATS):
        request = f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{consumer}"
        fleet.conn.publish(request, b'{"batch":1,"expires":600000000000}', reply=f"{inbox}.{n}")
    async with asyncio.timeout(90):
        while int((await fleet.conn.api(f"CONSUMER.INFO.EVENTS.{consumer}"))["num_waiting"]) < 4 * SEATS:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    asked = {"capability": "hold", "seated": True}
    service = subjects.rpc(fleet.tenant, "queue", "waiting")
    async with asyncio.timeout(90):  # an inbox that is gone still counts for a moment
        while (await rpc.call(fleet.conn, service, asked, dict[str, Any]))["waiting"] >= 2 * SEATS:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    async with fleet.client() as c:
        handles = await c.submit_many("hold", [None] * WORKERS, priority="critical")
        await until(lambda: holding.begun == WORKERS)
        holding.go.set()
        await asyncio.gather(*(handle.result(timeout_s=90) for handle in handles))
    await plain.unsubscribe()


async def _nothing() -> None: ...


class _Asked(msgspec.Struct):
    probe: str = ""


@pytest.mark.usefixtures("few_seats")
async def test_who_does_not_hear_the_service_waits(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like an older configuration of the broker: what coord says at `coord.wake` does not reach agents."""
    monkeypatch.setattr(limits, "WAKE_PROBE_S", 0.1)
    asked: list[str] = []

    async def waiting(request: rpc.Request) -> dict[str, int]:
        asked.append(request.decode(_Asked).probe)
        return {"waiting": 1_000}

    endpoint = await rpc.serve(
        fleet.conn, subjects.rpc_all("queue", "waiting"), waiting, service="queue", method="waiting",
        registry=Metrics(CollectorRegistry()),
    )  # fmt: skip
    agent = coord.Agent("w", capabilities={"hold": 1}, drain_s=0)
    agent.task("hold")(_nothing)
    async with agent.connect(fleet.url, tenant=fleet.tenant) as worker:
        await until(lambda: sum(map(bool, asked)) >= 2)  # it has looked again
        assert worker.seat("hold") == "seated"
        assert all(probe.startswith(subjects.PROBES) for probe in asked if probe)
        # And from now on it does.
        heard = sum(map(bool, asked))
        monkeypatch.setattr(limits, "WAKE_PROBE_S", 30.0)
        await until(lambda: sum(map(bool, asked)) > heard)
        fleet.conn.publish(subjects.wake(fleet.tenant, asked[-1] or asked[-2]), b'{"what":"probe"}')
        await until(lambda: worker.seat("hold") == "standing")
    await endpoint.close()
