"""A world for the workflow decider, in memory: a log with its conditions, agents and time."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from coord.core.deciding import Effect, Owed, State
from coord.core.flow_local import Line, Moment, begins
from coord.core.flow_run import AGENT
from coord.core.tasks import Task
from coord.core.workflow import WorkflowDecider
from coord.wire import codec, ids, subjects
from coord.wire.envelope import StoredFact
from coord.wire.work import LocalOutcome, Submission
from tests.support.facts import Nobody

TENANT = "acme"
EPOCH = datetime(2026, 11, 21, 10, tzinfo=UTC)


Do: TypeAlias = Callable[[str, Any], LocalOutcome]
"""From a step and its input to what comes of it."""


class World:
    """One log, one decider of all of it.  `forgetful`: the broker knows no message ids."""

    def __init__(self, rng: random.Random, *, forgetful: bool = False) -> None:
        self.rng = rng
        self.forgetful = forgetful
        self.log: list[StoredFact] = []
        self.decider = WorkflowDecider()
        self.folded = 0
        """How much of the log the decider has folded."""
        self.unstated: list[State] = []
        """What it wants stated and nobody has yet."""
        self.pushed: list[Any] = []
        self._ids: set[str] = set()
        self._entities: set[tuple[str, ...]] = set()
        self._events: set[tuple[Any, ...]] = set()
        self._now = EPOCH
        self.tasks: dict[tuple[str, str], Task] = {}
        """Every task, folded independently."""

    # --- the log --------------------------------------------------------------------------

    def fact(
        self, agent: str, key: str, kind: str, id: str, event: str, *detail: str, data: Any = None,  # noqa: A002
        event_id: str | None = None, later_s: float = 0.001,
    ) -> StoredFact:  # fmt: skip
        """Store a fact."""
        self._now += timedelta(seconds=later_s)
        body = b"" if data is None else codec.encode(data)
        seq = len(self.log) + 1
        fact = StoredFact(
            tenant=TENANT, agent=agent, key=key, kind=kind, id=id, event=event, detail=detail,
            partition=subjects.partition(key), seq=seq, index=0, stored_at=self._now, occurred_at=self._now,
            event_id=event_id or f"e{seq}", type="", schema=1, correlation_id=None, causation_id=None, traceparent=None,
            body=body, content="json",
        )  # fmt: skip
        self.log.append(fact)
        self._entities.add((key, kind, id))
        self._events.add((key, kind, id, event, detail))
        if kind == "task":
            task = self.tasks.setdefault((key, id), Task(tenant=TENANT, key=key, id=id))
            task.apply(fact)
        return fact

    @property
    def now(self) -> float:
        return self._now.timestamp()

    def state(self, stated: State) -> None:
        """What the loop around a decider does with a statement."""
        event_id = ids.derive_id(stated.tenant, stated.key, stated.version, stated.step, stated.attempt, stated.ordinal)
        if event_id in self._ids and not self.forgetful:
            return
        if stated.once == "entity" and (stated.key, stated.kind, stated.id) in self._entities:
            return
        place = (stated.key, stated.kind, stated.id, stated.event, stated.detail)
        if stated.once == "event" and place in self._events:
            return
        self._ids.add(event_id)
        self.fact(
            stated.agent, stated.key, stated.kind, stated.id, stated.event, *stated.detail, data=stated.data,
            event_id=event_id,
        )  # fmt: skip

    # --- the decider ----------------------------------------------------------------------

    def fold(self, count: int | None = None) -> None:
        """Let the decider fold what it has not, or `count` of it."""
        end = len(self.log) if count is None else min(len(self.log), self.folded + count)
        while self.folded < end:
            fact = self.log[self.folded]
            self.folded += 1
            if self.decider.forgot(fact):
                before = [
                    f for f in self.log[: self.folded - 1] if (f.key, f.kind, f.id) == (fact.key, fact.kind, fact.id)
                ]
                self.decider.recall(before)
            self._take(self.decider.apply(fact))

    def tick(self) -> None:
        self._take(self.decider.tick(self.now, Nobody()))

    def _take(self, effects: Any) -> None:
        for effect in effects:
            if isinstance(effect, State):
                self.unstated.append(effect)
            else:
                self.pushed.append(effect)

    def say(self, count: int | None = None, *, twice: bool = False) -> None:
        """State what the decider wants, in order."""
        count = len(self.unstated) if count is None else count
        now, self.unstated = self.unstated[:count], self.unstated[count:]
        for stated in now:
            self.state(stated)
            if twice:
                self.state(stated)

    def settle(self) -> None:
        """Fold and state until nothing follows."""
        while self.folded < len(self.log) or self.unstated:
            self.fold()
            self.say()

    def crash(self, at: int = 0, dumped: bytes | None = None) -> list[State]:
        """Another decider takes over, from a snapshot as of `at`; what it states once it has caught up."""
        self.unstated = []
        self.decider, owed = restored(self.log, at, dumped)
        self.folded = len(self.log)
        stated = owed.take()
        self.unstated = list(stated)
        self._take(self.decider.reconcile(self.now))
        return stated

    # --- agents ---------------------------------------------------------------------------

    def open_tasks(self, key: str | None = None) -> list[Task]:
        found = [task for task in self.tasks.values() if task.submitted_seq and not task.ended]
        return [task for task in found if key is None or task.key == key]

    def claim(self, task: Task, agent: str = "w") -> None:
        self.fact(agent, task.key, "task", task.id, "claimed", str(task.next_claim), data={})

    def complete(self, task: Task, output: Any = None, agent: str = "w") -> None:
        if task.free:
            self.claim(task, agent)
        self.fact(agent, task.key, "task", task.id, "completed", data={"output": output})

    def do_line(self, task: Task, do: Do, *, most: int, output: Any = None, agent: str = "w") -> list[str]:
        """Complete a task and go on with at most so many of the local steps that it offers; those that were done."""
        if task.free:
            self.claim(task, agent)
        submitted = next(f for f in self.log if f.seq == task.submitted_seq)
        line = Line(task.id, codec.encode(output))
        then: list[LocalOutcome] = []
        for local in submitted.decode(Submission).then[:most]:
            given = begins(line, local, Moment(task.claims, 0.0))
            if given is None:
                break
            outcome = msgspec.structs.replace(do(local.step, msgspec.json.decode(given)), step=local.step)
            then.append(outcome)
            line.ended(outcome, codec.encode(outcome.output))
        self.fact(agent, task.key, "task", task.id, "completed", data={"output": output, "then": then})
        return [outcome.step for outcome in then]

    def fail(self, task: Task, agent: str = "w", *, final: bool = True) -> None:
        if task.free:
            self.claim(task, agent)
        self.fact(agent, task.key, "task", task.id, "failed", data={"error": "Boom", "message": "no", "final": final})

    def start(
        self, definition: Any, input: Any = None, id: str = "w1", agent: str = "boss", **more: Any,  # noqa: A002
    ) -> None:  # fmt: skip
        data = {"definition": definition, "input": input, "instance": "i1", **more}
        self.fact(agent, id, "workflow", id, "started", data=data)

    # --- asking ---------------------------------------------------------------------------

    def of(self, key: str, kind: str, event: str | None = None) -> list[StoredFact]:
        return [f for f in self.log if f.key == key and f.kind == kind and event in (None, f.event)]

    def submitted(self, key: str = "w1") -> list[str]:
        return [f.id for f in self.of(key, "task", "submitted")]


def restored(log: list[StoredFact], at: int = 0, dumped: bytes | None = None) -> tuple[WorkflowDecider, Owed]:
    """A decider that has folded the log from a snapshot on, and what it owes."""
    decider, owed = WorkflowDecider(), Owed()
    if dumped is not None:
        decider.load(msgspec.msgpack.decode(dumped))
    seen: dict[tuple[str, ...], list[StoredFact]] = defaultdict(list)
    for fact in log:
        place = (fact.key, fact.kind, fact.id)
        if fact.seq > at:
            owed.meet(fact)
            if decider.forgot(fact):
                decider.recall(seen[place])
            effects: Any = decider.apply(fact)
            for effect in effects:
                if isinstance(effect, State):
                    owed.demand(effect)
        seen[place].append(fact)
    return decider, owed


def dump(decider: WorkflowDecider) -> bytes:
    """As a snapshot has it."""
    return msgspec.msgpack.encode(decider.dump())


__all__ = ["AGENT", "Effect", "World", "dump", "restored"]
