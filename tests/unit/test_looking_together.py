"""What partitions look at, each for itself, is looked at in the same moments: one wake-up, and one question.

In virtual time: no turn of the loop is so slow that a moment falls into it.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from coord.bus.connection import Connection
from coord.projector import ends
from coord.runtime.clock import in_step
from coord.testing import virtual


class Broker:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def api(self, request: str) -> dict[str, Any]:
        self.asked += 1
        return {"asked": request}


def test_busy_partitions_ask_for_their_stream_once_though_they_are_busy_one_after_another() -> None:
    async def asked() -> None:
        broker = Broker()
        together = ends.Ends(cast("Connection", broker), "EVENTS")
        asking: list[asyncio.Task[dict[str, Any]]] = []
        planned = asyncio.Event()

        def look() -> None:
            asking.append(asyncio.create_task(together.info()))
            if len(asking) == 3:
                planned.set()

        for turn in range(3):  # each in a turn of its own
            together.later(look)
            await asyncio.sleep(0)
            assert not asking, turn
        await asyncio.wait_for(planned.wait(), 5)
        assert {await one == {"asked": "STREAM.INFO.EVENTS"} for one in asking} == {True}
        assert broker.asked == 1
        again = asyncio.Event()
        together.later(again.set)  # and the next moment is planned anew
        await asyncio.wait_for(again.wait(), 5)

    virtual.run(asked())


def test_who_looks_equally_often_looks_in_the_same_moment_and_never_twice_in_one() -> None:
    async def looked() -> None:
        loop = asyncio.get_running_loop()
        for every_s in (0.25, 0.5, 1.0):
            for _ in range(20):
                await asyncio.sleep(0.07)
                wait_s = in_step(every_s)
                at = loop.time() + wait_s
                assert at / every_s == pytest.approx(round(at / every_s), abs=1e-6)
                assert every_s / 8 - 1e-6 < wait_s <= every_s * 9 / 8 + 1e-6

    virtual.run(looked())
