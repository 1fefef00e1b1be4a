"""Who is let in while a circuit probes, however long he had to wait before he could be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import coord
from coord import errors, limits
from coord.core.admission import Board
from coord.runtime import clock
from coord.testing import InMemoryCoord

MANY = 3 * limits.CAPABILITY_PROBES


@pytest.mark.parametrize(
    "submit",
    [
        lambda c, n: [c.submit("ill", i) for i in range(n)],
        lambda c, n: [c.submit("ill", i, reuse_for_s=60) for i in range(n)],
        lambda c, n: [c.submit_many("ill", [i], return_errors=True) for i in range(n)],
    ],
    ids=["submit", "reuse", "submit_many"],
)
async def test_who_waited_for_room_asks_at_the_door_again(
    fleet: InMemoryCoord, submit: Callable[[coord.Coord, int], list[Any]]
) -> None:
    async with fleet.connect("boss") as c:
        await c.submit("ill")
        submitted = len(fleet.facts("task"))
        door, stating = c._submitter._doors["ill"], c.stating
        bound, stating._inflight_max = stating._inflight_max, 0
        door.hear(Board(circuit="probing"), clock.monotonic())
        waiting = [asyncio.ensure_future(one) for one in submit(c, MANY)]
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(fleet.facts("task")) == submitted, "the window is full"
        door.hear(Board(circuit="probing"), clock.monotonic())
        stating._inflight_max = bound
        stating._room.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        refused = [one for many in found for one in (many if isinstance(many, list) else [many])]
        assert sum(isinstance(one, errors.CircuitOpen) for one in refused) == MANY - limits.CAPABILITY_PROBES
        assert len(fleet.facts("task")) - submitted == limits.CAPABILITY_PROBES
