"""The two clocks: one suite for what both promise, and what only the manual one can do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from coord.runtime.clock import Clock, ManualClock, SystemClock


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()])
async def test_what_every_clock_promises(clock: Clock) -> None:
    assert clock.now().utcoffset() == timedelta(0)
    first = clock.monotonic()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.monotonic() >= first


async def test_the_system_clock_sleeps() -> None:
    clock = SystemClock()
    began = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - began >= 0.009


async def test_sleepers_wake_in_order_of_their_time() -> None:
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [asyncio.create_task(sleeper(n, s)) for n, s in (("late", 3), ("early", 1), ("middle", 2))]
    await clock.until_asleep(3)
    assert clock.next_wake_s == 1
    clock.advance(0.5)
    await asyncio.sleep(0)
    assert woken == []
    clock.advance(1.5)
    await asyncio.gather(tasks[1], tasks[2])
    assert woken == ["early", "middle"]
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    clock.advance(10)  # past a sleeper that was cancelled
    assert clock.now() == datetime(2030, 1, 1, 0, 0, 12, tzinfo=UTC)
    assert clock.next_wake_s is None
