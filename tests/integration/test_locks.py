"""Locks, elections and semaphores through the SDK on the real services."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from coord import errors, limits
from coord.bus.publish import Publication
from coord.client import entities
from coord.client.connect import Coord
from coord.wire.records import Fact
from tests.support.tasks import Fleet
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_one_at_a_time_with_growing_epochs(fleet: Fleet) -> None:
    inside: list[str] = []
    epochs: list[int] = []

    async def agent(name: str) -> None:
        async with fleet.client(name) as c:
            for _ in range(5):
                async with c.lock("index", timeout_s=150) as held:
                    inside.append(name)
                    assert inside == [name]
                    epochs.append(held.epoch)
                    await asyncio.sleep(0.001)
                    inside.remove(name)
                    assert not held.lost.is_set()

    async with asyncio.TaskGroup() as tasks:
        for n in range(4):
            tasks.create_task(agent(f"a{n}"))
    assert len(epochs) == 20
    assert epochs == sorted(set(epochs))


async def test_a_semaphore_and_its_permits(fleet: Fleet) -> None:
    async with fleet.client("a") as a, fleet.client("b") as b:
        async with a.semaphore("gpu", 2), b.semaphore("gpu", 2):
            with pytest.raises(errors.DeadlineExceeded):
                await b.semaphore("gpu", 2, timeout_s=0.1).acquire()
            with pytest.raises(errors.LockRefused, match="permits"):
                await b.lock("gpu").acquire()
        async with b.lock("gpu", timeout_s=90):  # nobody uses it any more
            pass
        lock = await a.locks.get("gpu")
        assert lock is not None
        assert not lock.requests


async def test_who_dies_loses_the_lead_at_once(fleet: Fleet) -> None:
    a = await fleet.client("a")
    async with fleet.client("b") as b:
        first = await a.elect("planner").acquire()
        second = asyncio.create_task(b.elect("planner", timeout_s=150).acquire())

        async def waits() -> bool:
            lock = await b.locks.get("planner")
            return lock is not None and len(lock.requests) == 2

        await until(waits)
        began = time.monotonic()
        await a.connection.close()  # as a killed process does
        led = await second
        took = time.monotonic() - began
        print(f"led after {took * 1e3:.0f} ms")
        assert led.epoch > first.epoch
        assert took < limits.GONE_AFTER * limits.HEARTBEAT_IDLE_S, "by its connection, not by its heartbeats"
        with contextlib.suppress(errors.CoordError):
            await a.close()


async def test_whose_lease_ends_is_told(fleet: Fleet) -> None:
    async with fleet.client("a") as a, a.lock("short", ttl_s=1) as held:
        await asyncio.wait_for(held.lost.wait(), 90)


async def test_a_push_that_is_lost_is_made_good_by_the_log(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESULT_AUDIT_FIRST_S", 0.2)
    async with fleet.client("a") as a:
        a.locks  # noqa: B018 - registers for pushes
        a.pushes._handlers["lock"] = []
        async with a.lock("quiet", timeout_s=90) as held:
            assert held.epoch > 0


def deaf(c: Coord) -> None:
    """It is told nothing about locks."""
    c.locks  # noqa: B018 - registers for pushes
    c.pushes._handlers["lock"] = []


async def free(c: Coord, name: str) -> bool:
    lock = await c.locks.get(name)
    return lock is not None and not lock.requests


async def test_what_could_not_be_given_back_is_given_back_later(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that lives on would keep it from all others."""
    monkeypatch.setattr(limits, "LOCK_GIVE_BACK_S", 0.05)
    async with fleet.client("a") as a:
        send, failed = a.stating.send, 0

        async def fails() -> None:
            raise errors.PublishTimeout

        def sending(fact: Fact, **more: Any) -> Any:
            nonlocal failed
            if fact.event == "released" and failed < 2:
                failed += 1
                return fails()
            return send(fact, **more)

        async with a.lock("stuck", timeout_s=90):
            monkeypatch.setattr(a.stating, "send", sending)
        await until(lambda: free(a, "stuck"))
        assert failed == 2


async def test_who_waits_no_more_says_so_behind_what_he_said_before(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused for a moment is sent again: his end overtook the request, which nobody ended then."""
    monkeypatch.setattr(limits, "LOCK_GIVE_BACK_S", 0.05)
    async with fleet.client("a") as a:
        await a.pushes.open()
        pipeline, held = a.stating._pipeline, []
        submit = pipeline.submit

        def submitting(publication: Publication, now: float) -> None:
            if ".requested." in publication.subject:
                held.append(publication)  # a leader is being elected
            else:
                submit(publication, now)

        monkeypatch.setattr(pipeline, "submit", submitting)
        with pytest.raises(errors.DeadlineExceeded):
            await a.lock("ghost", timeout_s=0.2).acquire()
        (late,) = held
        submit(late, time.monotonic())
        await late
        await until(lambda: free(a, "ghost"))


async def test_who_was_away_hears_of_a_loss_though_the_log_cannot_be_read_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet.client("a") as a, a.lock("away", ttl_s=1, timeout_s=90) as held:
        deaf(a)
        read, asked = entities.window, 0

        async def window(*args: Any, **more: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise errors.ServiceUnavailable
            return await read(*args, **more)

        await until(lambda: free(a, "away"))
        monkeypatch.setattr("coord.client.entities.window", window)
        a.locks._reconnected()
        await asyncio.wait_for(held.lost.wait(), 90)
        assert asked >= 3


async def test_a_lock_that_is_used_very_often_is_waited_for_all_the_same(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who read the oldest facts, as many as he would fold, thought that he had lost his place, again and again."""
    monkeypatch.setattr(limits, "LOCK_AUDIT_FACTS_MAX", 6)
    async with fleet.client("a") as a, fleet.client("b") as b:
        for _ in range(5):
            async with a.lock("hot", timeout_s=90):
                pass
        first = await a.lock("hot", timeout_s=90).acquire()
        monkeypatch.setattr(limits, "RESULT_AUDIT_FIRST_S", 0.1)
        locking = b.lock("hot", timeout_s=90)
        second = asyncio.create_task(locking.acquire())

        async def waits() -> bool:
            lock = await b.locks.get("hot")
            return lock is not None and [r.agent for r in lock.requests.values()] == ["a", "b"]

        await until(waits)
        epoch = (await b.locks.get("hot")).waiting[0].epoch  # type: ignore[union-attr]
        asked = 0
        told = b.locks.revoked

        async def revoked(*args: Any) -> Any:
            nonlocal asked
            asked += 1
            return await told(*args)

        monkeypatch.setattr(b.locks, "revoked", revoked)
        await until(lambda: asked >= 2)
        deafened, b.pushes._handlers["lock"] = b.pushes._handlers["lock"], []
        a_lock = next(iter(a.locks._lockings.values()))
        await a_lock.release()
        await until(lambda: only(b, "hot"))
        b.pushes._handlers["lock"] = deafened
        assert (await second).epoch == epoch > first.epoch
        await locking.release()


async def only(c: Coord, name: str) -> bool:
    lock = await c.locks.get(name)
    return lock is not None and len(lock.requests) == 1


async def test_how_long_it_takes(fleet: Fleet, record_property) -> None:
    took: list[float] = []
    async with fleet.client("a") as a:
        for n in range(50):
            began = time.monotonic()
            async with a.lock(f"l{n % 5}"):
                took.append(time.monotonic() - began)
    took.sort()
    print(f"lock: p50 {took[25] * 1e3:.2f} ms, max {took[-1] * 1e3:.2f} ms")
    record_property("p50_ms", took[25] * 1e3)
