"""The slots of one capability: what runs, what is held for something urgent, how many are free."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coord.client.execution import Execution


class Slots:
    """`capacity` executions at once; a batch one that makes way gives its slot to a critical one.

    An execution that does local steps has a slot of its task's capability, and one of the step's while that runs.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.running: set[Execution] = set()
        """Those that are held are not among them."""
        self.held: deque[Execution] = deque()

    @property
    def free(self) -> int:
        """Slots for new work: what is held goes on first."""
        return self.capacity - len(self.running) - len(self.held)

    @property
    def used(self) -> int:
        """Claims that this capability has."""
        return len(self.running) + len(self.held)

    def yielding(self) -> Execution | None:
        """The youngest execution that would make way for a critical one, best one not begun; None: there is none."""
        found = [execution for execution in self.running if execution.preemptible]
        return max(found, key=lambda one: one.began_at if one.started else math.inf, default=None)

    def take(self, execution: Execution) -> bool:
        """Put it into a slot; for a critical one somebody may be held.  False: there is no room."""
        if self.free <= 0:
            other = self.yielding() if execution.queue == "critical" else None
            if other is None:
                return False
            self.running.discard(other)
            self.held.append(other)
            other.worker.preempted(other)
            other.gate.close(self)
        self.running.add(execution)
        return True

    def leave(self, execution: Execution) -> None:
        """Free its slot, or let the one go on that was held for it.  Twice is legal."""
        if execution in self.held:
            self.held.remove(execution)
            execution.gate.open(self)
        self.running.discard(execution)
        while self.held and len(self.running) < self.capacity:
            resumed = self.held.popleft()
            self.running.add(resumed)
            resumed.gate.open(self)
