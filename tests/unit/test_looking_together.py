"""What partitions look at, each for itself, is looked at in the same moments: one wake-up, and one question.

In virtual time: no turn of the loop is so slow that a moment falls into it.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus.connection import Connection
from coord.core.checkpoint import Checkpoint
from coord.projector import ends
from coord.projector.config import ProjectorConfig
from coord.projector.partition import PartitionProjector
from coord.runtime.clock import in_step
from coord.telemetry.metrics import Metrics
from coord.testing import virtual
from coord.wire import subjects

CREATED = "2026-01-01T00:00:00Z"


class Broker:
    """Counts what it is asked."""

    is_connected = True
    epoch = 0

    def __init__(self, *, fails: int = 0) -> None:
        self.asked = 0
        self.fails = fails
        """So often it does not answer, at first."""

    def new_inbox(self) -> str:
        return "_INBOX"

    def on_disconnected(self, _: Any) -> Any:
        return lambda: None

    def publish(self, *_: Any) -> None: ...

    async def api(self, request: str) -> dict[str, Any]:
        self.asked += 1
        if self.asked <= self.fails:
            raise errors.DeadlineExceeded("planted")
        state = {"messages": 9, "first_seq": 1, "last_seq": 100, "first_ts": CREATED, "last_ts": CREATED}
        return {"asked": request, "created": CREATED, "config": {}, "state": state}


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
        assert {(await one)["asked"] for one in asking} == {"STREAM.INFO.EVENTS"}
        assert broker.asked == 1
        again = asyncio.Event()
        together.later(again.set)  # and the next moment is planned anew
        await asyncio.wait_for(again.wait(), 5)

    virtual.run(asked())


def test_a_defect_of_one_keeps_no_other_from_looking() -> None:
    async def looked() -> None:
        loop = asyncio.get_running_loop()
        told, looked = asyncio.Event(), asyncio.Event()
        loop.set_exception_handler(lambda _, context: told.set() if context["exception"] is defect else None)
        defect = ValueError("planted")

        def look() -> None:
            raise defect

        together = ends.Ends(cast("Connection", Broker()), "EVENTS")
        together.later(look)
        together.later(looked.set)
        await asyncio.wait_for(asyncio.gather(told.wait(), looked.wait()), 5)

    virtual.run(looked())


def test_a_look_at_the_window_that_fails_is_made_again_though_nothing_is_committed_any_more() -> None:
    async def looked() -> None:
        broker = Broker(fails=2)
        at = Checkpoint(
            stream=subjects.EVENTS, partition=3, seq=90, epoch=1,
            stream_created=datetime.fromisoformat(CREATED), stored_at=None,
        )  # fmt: skip
        none: Any = None
        projector = PartitionProjector(
            subjects.EVENTS, 3, cast("Connection", broker), none, none, ProjectorConfig(), Metrics(CollectorRegistry())
        )
        intake: Any = SimpleNamespace(checkpoint=at, received_at=0.0, is_idle=False)
        projector._source = cast("Any", SimpleNamespace(check_silence=lambda: None))
        projector._window_messages = 5  # committed, and nothing since
        projector._plan_window()
        for asked in (1, 2, 3, 3):
            await asyncio.sleep(2)
            await projector._look(intake)
            assert broker.asked == asked
        assert (projector._window_from, projector._window_messages) == (90, 0)

    virtual.run(looked())


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
