"""Waits that share a timer: they end with what they waited for, or when their time is over; nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from coord.runtime.alarms import Alarms


async def _waiting(alarms: Alarms, timeout_s: float | None) -> tuple[asyncio.Future[bool], asyncio.Task[bool]]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(alarms.wait(future, timeout_s))
    await asyncio.sleep(0)
    return future, task


@pytest.mark.parametrize("timeout_s", [None, 0.5, 60.0])
async def test_a_wait_ends_with_what_it_waited_for(timeout_s: float | None) -> None:
    alarms = Alarms()
    future, task = await _waiting(alarms, timeout_s)
    future.set_result(True)
    assert await task
    assert len(alarms) == 0


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 0.01, 1.0])
async def test_a_wait_ends_when_its_time_is_over_and_no_sooner(timeout_s: float) -> None:
    alarms = Alarms()
    began = asyncio.get_running_loop().time()
    _, task = await _waiting(alarms, timeout_s)
    assert not await task
    assert asyncio.get_running_loop().time() - began >= timeout_s - 0.002  # uvloop's clock has milliseconds
    assert len(alarms) == 0


async def test_each_wait_has_its_own_time() -> None:
    alarms = Alarms()
    _, short = await _waiting(alarms, 1.0)
    future, long = await _waiting(alarms, 60.0)
    assert not await short
    assert not long.done()
    assert len(alarms) == 1
    future.set_result(True)
    assert await long


@pytest.mark.parametrize("timeout_s", [0.5, 60.0])
async def test_a_wait_that_is_cancelled_leaves_nothing_behind(timeout_s: float) -> None:
    alarms = Alarms()
    future, task = await _waiting(alarms, timeout_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert future.cancelled()
    assert len(alarms) == 0
