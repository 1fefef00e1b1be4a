"""Waiting for room: first come first served, and nothing leaks when a caller goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coord.client.config import CRITICAL, METRICS, PublisherConfig
from coord.client.room import Room
from coord.core.outbox import Outbox
from coord.errors import BusClosed, Overloaded


class Setup:
    """An outbox whose critical queue holds four entries, and its waiting room."""

    def __init__(self, wait_s: float = 5.0) -> None:
        config = PublisherConfig(queue_entries=4)
        self.outbox: Outbox[Any] = Outbox(config.lanes(1_000_000))
        self.freed = 0
        self.room = Room(self.outbox, wait_s={CRITICAL: wait_s}, wait_at_most_s=wait_s, freed=self.give_back)
        self.queue = self.outbox.lanes[CRITICAL].queue
        assert self.outbox.reserve(CRITICAL, 4, 40)
        assert not self.outbox.reserve(CRITICAL, 1, 10)

    def give_back(self) -> None:
        self.freed += 1
        self.room.hand_out()

    async def caller(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.room.wait(CRITICAL, 1, 10))
        await asyncio.sleep(0)
        return task

    def leave(self, count: int) -> None:
        self.outbox.unreserve(CRITICAL, count, 10 * count)
        self.room.hand_out()


async def test_room_is_handed_out_in_the_order_of_asking() -> None:
    setup = Setup()
    callers = [await setup.caller() for _ in range(4)]
    setup.leave(2)
    await asyncio.sleep(0)
    assert [task.done() for task in callers] == [True, True, False, False]
    assert setup.queue.count == 4, "what was handed out is accounted at once"
    setup.leave(4)
    await asyncio.gather(*callers)
    assert setup.queue.count == 2


async def test_a_caller_cancelled_in_the_moment_of_its_grant_passes_the_room_on() -> None:
    setup = Setup()
    first, second = await setup.caller(), await setup.caller()
    setup.outbox.unreserve(CRITICAL, 1, 10)
    setup.outbox.lanes[CRITICAL].queue.paused = False  # as if one had left at the low mark: room for exactly one
    setup.room.hand_out()
    first.cancel()  # it has been granted, and has not run yet
    await asyncio.wait([first])
    assert first.cancelled()
    assert setup.freed == 1
    setup.outbox.lanes[CRITICAL].queue.paused = False
    setup.room.hand_out()
    await asyncio.wait_for(second, 60)
    assert setup.queue.count == 4


async def test_a_caller_cancelled_while_it_waits_leaves_no_trace() -> None:
    setup = Setup()
    first, second = await setup.caller(), await setup.caller()
    first.cancel()
    await asyncio.wait([first])
    setup.leave(4)
    await asyncio.wait_for(second, 60)
    assert setup.queue.count == 1


async def test_a_caller_cancelled_and_not_yet_run_does_not_get_room() -> None:
    setup = Setup()
    first, second = await setup.caller(), await setup.caller()
    first.cancel()
    setup.leave(4)
    await asyncio.wait([first, second])
    assert second.exception() is None
    assert setup.queue.count == 1


async def test_waiting_ends_with_overloaded_and_says_when_to_come_back() -> None:
    setup = Setup(wait_s=0.01)
    with pytest.raises(Overloaded) as refused:
        await setup.room.wait(CRITICAL, 1, 10)
    assert refused.value.details["service_class"] == "critical"
    assert refused.value.details["queued"] == 4
    assert refused.value.retry_after_s == 30.0, "nothing has moved"
    setup.leave(4)
    assert setup.queue.count == 0


async def test_closing_wakes_everybody() -> None:
    setup = Setup()
    setup.outbox.held = True
    waiting = [await setup.caller() for _ in range(3)]
    clear = asyncio.create_task(setup.room.way_clear(METRICS))
    await asyncio.sleep(0)
    setup.room.close()
    await asyncio.wait_for(clear, 60)
    for task in waiting:
        with pytest.raises(BusClosed):
            await task


async def test_a_grant_that_meets_a_close_is_given_back() -> None:
    setup = Setup()
    caller = await setup.caller()
    setup.leave(4)
    setup.room.close()
    with pytest.raises(BusClosed):
        await caller
    assert setup.queue.count == 0


async def test_the_way_is_clear_when_the_lane_is_not_crowded() -> None:
    setup = Setup()
    await asyncio.wait_for(setup.room.way_clear(METRICS), 60)
    setup.outbox.held = True
    patient = asyncio.create_task(setup.room.way_clear(METRICS))
    await asyncio.sleep(0)
    assert not patient.done()
    setup.outbox.held = False
    setup.room.hand_out()
    await asyncio.wait_for(patient, 60)
