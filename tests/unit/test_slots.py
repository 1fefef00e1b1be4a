"""Who has a slot when critical work comes and there is none."""

from __future__ import annotations

from typing import Any

import pytest

from coord.client.slots import Slots
from coord.client.yielding import Gate


class _Worker:
    def preempted(self, _execution: Any) -> None:
        return


class _Execution:
    """As much of one as slots look at."""

    def __init__(self, queue: str, *, preemptible: bool = False, began_at: float | None = None) -> None:
        self.queue = queue
        self.preemptible = preemptible
        self.started = began_at is not None
        self.began_at = began_at or 0.0
        self.gate = Gate()
        self.worker = _Worker()


def filled(*executions: _Execution) -> Any:
    slots: Any = Slots(len(executions))
    for execution in executions:
        assert slots.take(execution)
    return slots


async def test_the_youngest_that_may_makes_way_and_goes_on_after() -> None:
    old, young = (_Execution("batch", preemptible=True, began_at=at) for at in (1.0, 2.0))
    slots, urgent = filled(old, young), _Execution("critical")
    assert slots.take(urgent)
    assert (young.gate.closed, old.gate.closed) == (True, False)
    slots.leave(urgent)
    assert not young.gate.closed
    assert slots.used == 2


async def test_what_has_a_slot_and_has_not_begun_makes_way_first() -> None:
    """Its claim is on its way: a critical task that comes in this moment must not be sent away."""
    begun, claimed = _Execution("batch", preemptible=True, began_at=5.0), _Execution("batch", preemptible=True)
    slots = filled(begun, claimed)
    assert slots.yielding() is claimed
    assert slots.take(_Execution("critical"))
    assert (claimed.gate.closed, begun.gate.closed) == (True, False)
    assert slots.take(_Execution("critical"))
    assert begun.gate.closed
    assert not slots.take(_Execution("critical")), "nobody is left who would make way"


@pytest.mark.parametrize("queue", ["normal", "batch"])
async def test_nobody_makes_way_for_what_is_not_critical_nor_who_may_not(queue: str) -> None:
    assert not filled(_Execution("batch", preemptible=True, began_at=1.0)).take(_Execution(queue))
    assert not filled(_Execution("batch", began_at=1.0)).take(_Execution("critical"))
