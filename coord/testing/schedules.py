"""A model of TIMERS: the schedules that the server keeps, and what the log takes in of what is due.

What it does is what tests/contract shows of the server: a schedule replaces the one on its subject, one that fires
once is no more afterwards, and what is due comes in the order in which it was, late, and at times twice: the log
takes it from another stream, whose messages have no ids that it would remember.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from coord.core.deciding import Arm
from coord.wire.envelope import Fact

if TYPE_CHECKING:
    from coord.testing.broker import Broker

Place: TypeAlias = tuple[str, str]
"""(key, id) of a timer."""

_AUTHOR = "_timer"


class Schedules:
    """Of one broker; its crashes leave them alone."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.held: dict[Place, Arm] = {}
        """What will fire."""
        self._count = 0
        self._sourced_until = 0.0

    def arm(self, arm: Arm) -> bool:
        """Keep a schedule, or forget it; the answer is one, whatever it is."""
        place = (arm.key, arm.id)
        if arm.schedule is None:
            self.held.pop(place, None)
        elif not (arm.absent and place in self.held):
            own = self.held[place] = msgspec.structs.replace(arm)  # what is said twice replaces itself
            self._wait(place, own)
        return True

    def _wait(self, place: Place, arm: Arm) -> None:
        loop = self._broker.loop
        how, _, when = (arm.schedule or "").partition(" ")
        if how == "@at":
            due_s = max(0.0, datetime.fromisoformat(when).timestamp() - self._broker.unix)
        else:
            due_s = float(when.removesuffix("ms")) / 1000
        loop.at(due_s, lambda: self._due(place, arm, again=how == "@every"))

    def _due(self, place: Place, arm: Arm, *, again: bool) -> None:
        if self.held.get(place) is not arm:
            return  # replaced, or removed
        broker = self._broker
        if broker.loop.now < broker.down_until:
            broker.loop.at(broker.down_until - broker.loop.now, lambda: self._due(place, arm, again=again))
            return
        if again:
            self._wait(place, arm)
        else:
            del self.held[place]
        self._count += 1
        self._source(place, arm.data, f"timers-{self._count}")

    def _source(self, place: Place, data: Any, event_id: str) -> None:
        broker, key, name = self._broker, *place
        fact = Fact(kind="timer", id=name, key=key, event="fired", data=data)
        took_s = broker.faults.hop_s() or 0.01  # it is asked for until it has come
        at = self._sourced_until = max(self._sourced_until + 1e-6, broker.loop.now + took_s)

        def arrive() -> None:
            broker.append(_AUTHOR, fact, event_id, None, remembered=False)

        for _ in range(1 + broker.faults.twice()):
            broker.loop.at(at - broker.loop.now, arrive)
