"""Who starts workflows of every kind of step, sets the table that they ask, approves, and cancels.

With draws of its own: whatever else a seed plays does not depend on what is drawn here.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from coord.core import workflow_life
from coord.testing.fleet import Agent
from coord.testing.loop import Thread, sleep
from coord.testing.rules import AT_ONCE
from coord.wire.envelope import Fact

if TYPE_CHECKING:
    from coord.testing.simulation import World

TABLE: Final = "triage"


class Planner(Agent):
    """Starts a workflow, and does to it what can be done."""

    def __init__(self, name: str, world: World, seed: int) -> None:
        self.own = Random(f"{name} {seed}")
        self.flow = f"{name}f"
        self.done = False
        self._versions = 0
        super().__init__(name, world)

    def start(self) -> None:
        """All at once, as far as it is not over."""
        if not self.done:
            for doing in (self._plan(), self._reload(), self._approve(), self._cancel()):
                self.spawn(doing)

    def _plan(self) -> Thread:
        yield sleep(self.own.random() * 3.0)
        data = {"definition": self._definition(), "input": {"a": 1}, "instance": self.instance}
        started = Fact(kind="workflow", id=self.flow, key=self.flow, event="started", data=data)
        while (yield from self.state(started, "entity")) is None:
            yield sleep(0.1)
        while not self.done:
            yield sleep(2.0)
            life, _ = workflow_life.fold((yield from self.broker.read("workflow", self.flow, self.flow)))
            if life is None:  # what stands in its way is believed by nobody: a cancellation before its start
                yield from self.state_until_stored(started)
            else:
                self.done = life.ended

    def _reload(self) -> Thread:
        for _ in range(self.own.choice([0, 1, 4])):
            yield sleep(self.own.random() * 3.0)
            self._versions += 1
            table = {"rules": [{"output": self._versions}], "version": f"v{self._versions}"}
            yield from self.state_until_stored(Fact(kind="rules", id=TABLE, key=TABLE, event="set", data=table))

    def _approve(self) -> Thread:
        for _ in range(self.own.choice([0, 1, 2])):
            yield sleep(self.own.random() * 6.0)
            said = {"data": {"approved": self.own.random() < 0.7}}
            yield from self.state_until_stored(
                Fact(kind="signal", id="go-ahead", key=self.flow, event="raised", data=said)
            )

    def _cancel(self) -> Thread:
        if self.own.random() < 0.3:
            yield sleep(self.own.random() * 12.0)
            yield from self.state_until_stored(
                Fact(kind="workflow", id=self.flow, key=self.flow, event="cancelled", data={})
            )

    def _definition(self) -> dict[str, Any]:
        rng = self.own
        work = {"task": "work", "retries": 2, "backoff_s": 0.5, "timeout_s": 5.0}
        undo = {"undo": {"task": "undo", "retries": 3}}
        return {
            "name": "planned",
            "steps": [
                {"name": "first", **work, **undo},
                {"name": "pick", "decide": TABLE, "needs": ["first"], "optional": True},
                {
                    "name": "gate", "signal": "go-ahead", "needs": ["first"], "timeout_s": 4.0,
                    "approval": rng.random() < 0.5, "optional": rng.random() < 0.5,
                },
                {"name": "nap", "sleep_s": rng.choice([0.01, 1.0, 5.0]), "needs": ["pick"]},
                {
                    "name": "each", **work, **(undo if rng.random() < 0.5 else {}), "needs": ["nap"],
                    "for_each": [1, 2, 3, 4], "max_parallelism": AT_ONCE, "optional": rng.random() < 0.3,
                },
                {"name": "none", **work, "for_each": [], "needs": ["nap"]},
                {"name": "last", **work, "needs": ["each", "gate", "none"]},
            ],
        }  # fmt: skip
