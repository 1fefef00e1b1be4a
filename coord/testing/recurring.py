"""Who has tasks submitted again and again that must not overlap: sets such timers, sets them otherwise, ends them.

With draws of its own, and in some seeds only, as `coord.testing.leases`.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from coord.core import tasks
from coord.testing.leases import Patient
from coord.testing.loop import Thread, sleep
from coord.wire import work
from coord.wire.envelope import Fact

if TYPE_CHECKING:
    from coord.testing.simulation import World

_OVERLAPS: Final = ("queue", "queue", "queue", "skip", "allow")
"""Once it is set again."""


class Recurrer(Patient):
    """Sets one timer, some times; its tasks are for those who work, or for nobody: then one waits for good."""

    def __init__(self, name: str, world: World, seed: int) -> None:
        rng = Random(f"{name} how {seed}")
        self.timer = f"{name}t"
        self.capability = rng.choice(("work", "work", "nobody"))
        self.settings = rng.choice([1, 1, 2, 3])
        self.cancels = rng.choice([0, 1, 3])
        """Tasks of its own."""
        super().__init__(name, world, seed)

    def _all(self) -> Thread:
        own = self.own
        yield sleep(own.random() * 2.0)
        overlap = "queue"
        while self.settings:
            yield from self._state("set", self._said(overlap))
            self.settings -= 1
            yield sleep(own.choice([1.5, 5.0, 8.0]))
            while self.cancels and own.random() < 0.7:
                self.cancels -= 1
                yield from self._cancel_one()
            overlap = own.choice(_OVERLAPS)
        if self.capability == "work":
            yield from self._state("cancelled", {})
        else:  # it stays set, and fires so rarely that the world can come to rest
            yield from self._state("set", self._said("queue") | {"every_s": 40.0})
            yield sleep(90.0)
        self.done = True

    def _said(self, overlap: str) -> dict[str, Any]:
        task = {"retries": self.own.choice([0, 1]), "backoff_s": 0.5, "timeout_s": 5.0, "instance": self.instance}
        return {
            "every_s": self.own.choice([1.0, 1.0, 2.5]), "overlap": overlap, "instance": self.instance,
            "then": {"submit": {"capability": self.capability, "task": task}},
        }  # fmt: skip

    def _state(self, event: str, data: dict[str, Any]) -> Thread:
        yield from self.state_until_stored(Fact(kind="timer", id=self.timer, event=event, data=data))

    def _cancel_one(self) -> Thread:
        """End the newest task that is open."""
        yield sleep(self.own.random() * 2.0)
        numbers = sorted(int(name.rpartition("-")[2]) for key, name in self.world.referee.tasks if key == self.timer)
        for number in numbers[-1:]:
            name = f"{self.timer}-{number}"
            task, _ = tasks.fold((yield from self.broker.read("task", self.timer, name)))
            if task is not None and not task.ended:
                cancelled = Fact(kind="task", id=name, key=self.timer, event="cancelled", data=work.Ended("enough"))
                yield from self.state_until_stored(cancelled)
