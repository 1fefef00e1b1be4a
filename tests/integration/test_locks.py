"""Locks, elections and semaphores through the SDK on the real services."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from coord import errors, limits
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
