"""Several wait for one task: who is cancelled, and what is told to the others."""

from __future__ import annotations

import asyncio

import pytest

from coord import errors
from coord.runtime.sharing import shared


async def test_a_caller_that_leaves_takes_it_from_nobody() -> None:
    go = asyncio.Event()

    async def work() -> int:
        await go.wait()
        return 7

    task = asyncio.create_task(work())
    one, other = asyncio.create_task(shared(task)), asyncio.create_task(shared(task))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.wait([one])
    go.set()
    assert one.cancelled()
    assert await other == 7


async def test_its_own_cancellation_is_nobody_elses() -> None:
    task = asyncio.create_task(asyncio.Event().wait())
    one, both = asyncio.create_task(shared(task)), asyncio.create_task(shared(task))
    await asyncio.sleep(0)
    task.cancel()
    both.cancel()
    await asyncio.wait([one, both])
    assert isinstance(one.exception(), errors.BusClosed)
    assert both.cancelled(), "it was asked to leave too"


async def test_a_failure_is_everybodys() -> None:
    async def work() -> None:
        raise errors.Overloaded("full")

    task = asyncio.create_task(work())
    for _ in range(2):
        with pytest.raises(errors.Overloaded):
            await shared(task)
