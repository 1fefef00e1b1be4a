"""Bugs to be found: each is a few lines of what somebody might have written, put in the place of what is right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from coord.core import deciding, locks, task_decider, tasks
from coord.core.deciding import Push, Settle, State
from coord.core.scheduling import PlacementDecider
from coord.core.workflow import WorkflowDecider
from coord.testing import deciders, fleet
from coord.wire.envelope import StoredFact

Patch = pytest.MonkeyPatch


def claim_gate_ignored(patch: Patch) -> None:
    """A worker states its claim without the condition that it is the first of its number."""
    patch.setattr(fleet, "CLAIM_ONCE", None)


def live_claims_naked(patch: Patch) -> None:
    """After a takeover every delivery is naked, that of a live claim too."""

    def reconcile(self: task_decider.TaskDecider, now: float) -> Iterable[Any]:
        return [
            *right(self, now),
            *(Settle(task_decider._queue(t), t.submitted_seq, "nak") for t in self._tasks.values()),
        ]

    right = task_decider.TaskDecider.reconcile
    patch.setattr(task_decider.TaskDecider, "reconcile", reconcile)


def anybodys_outcome_believed(patch: Patch) -> None:
    """The fold does not ask who holds the claim."""

    def held(self: tasks.Task, fact: StoredFact, claim: int | None) -> tasks.Refusal | None:
        return tasks._FINISHED if self.ended else None

    patch.setattr(tasks.Task, "_held", held)


def ids_by_chance(patch: Patch) -> None:
    """What is decided twice is stated under two ids."""
    count = itertools.count()
    patch.setattr(deciders, "event_id_of", lambda _: f"chance-{next(count)}")


def snapshot_too_early(patch: Patch) -> None:
    """A snapshot is stored before the log has what its facts led to."""
    patch.setattr(deciders.Session, "is_answered", lambda *_: True)


def acked_when_claimed(patch: Patch) -> None:
    """The delivery is settled when somebody takes it, as many queues do."""

    def claimed(self: task_decider.TaskDecider, ident: Any, task: tasks.Task, fact: StoredFact) -> Iterable[Any]:
        return [*right(self, ident, task, fact), Settle(task_decider._queue(task), task.submitted_seq, "ack")]

    right = task_decider.TaskDecider._claimed
    patch.setattr(task_decider.TaskDecider, "_claimed", claimed)


def snapshot_forgets_deaths(patch: Patch) -> None:
    """A field is missing in a snapshot."""

    def dump(self: task_decider.TaskDecider) -> Any:
        dumped = right(self)
        for task in dumped.tasks:
            task.failures = 0
        return dumped

    right = task_decider.TaskDecider.dump
    patch.setattr(task_decider.TaskDecider, "dump", dump)


def newest_holds_the_lock(patch: Patch) -> None:
    """Who asks last is served first."""
    patch.setattr(locks.Lock, "holders", property(lambda self: list(self.requests.values())[-self.permits :]))


def nothing_owed(patch: Patch) -> None:
    """Whoever takes over believes that what was demanded before has been stated."""
    patch.setattr(deciding.Owed, "take", lambda _: [])


def needs_ignored(patch: Patch) -> None:
    """A step begins when one of those that it needs has ended."""

    def done(self: WorkflowDecider, run: Any) -> list[Any]:
        for state in run.flow.steps:
            state.missing = min(state.missing, 1)
        return right(self, run)

    right = WorkflowDecider._done
    patch.setattr(WorkflowDecider, "_done", done)


def releases_forgotten(patch: Patch) -> None:
    """Neither a death nor an overrun releases a claim."""

    def tick(self: task_decider.TaskDecider, now: float, presence: Any) -> Iterable[Any]:
        return [e for e in right(self, now, presence) if not (isinstance(e, State) and e.event == "released")]

    right = task_decider.TaskDecider.tick
    patch.setattr(task_decider.TaskDecider, "tick", tick)
    patch.setattr(task_decider.TaskDecider, "gone", lambda *_: ())


def told_before_it_is_decided(patch: Patch) -> None:
    """Whoever is chosen is told at once, whether or not the log takes the decision."""

    def decided(self: PlacementDecider, ident: Any, entry: Any, task: tasks.Task, now: float) -> list[Any]:
        effects = right(self, ident, entry, task, now)
        for effect in [e for e in effects if isinstance(e, State) and e.data.get("agent") is not None]:
            said = {"what": "placed", "key": task.key, "id": task.id, "n": effect.attempt, "claim": task.next_claim}
            effects.append(Push(task.tenant, effect.data["agent"], effect.data["instance"], "task", said))
        return effects

    right = PlacementDecider._decide
    patch.setattr(PlacementDecider, "_decide", decided)


def silence_is_patience(patch: Patch) -> None:
    """Who does not answer an offer is waited for."""

    def look(self: PlacementDecider, ident: Any, now: float) -> list[Any]:
        task = self._tasks.get(*ident)
        offered = task is not None and task.placing is not None and task.placing.agent is not None
        return [] if offered else right(self, ident, now)

    right = PlacementDecider.look
    patch.setattr(PlacementDecider, "look", look)


BUGS: tuple[Callable[[Patch], None], ...] = (
    claim_gate_ignored,
    live_claims_naked,
    anybodys_outcome_believed,
    ids_by_chance,
    snapshot_too_early,
    acked_when_claimed,
    snapshot_forgets_deaths,
    newest_holds_the_lock,
    nothing_owed,
    needs_ignored,
    releases_forgotten,
    told_before_it_is_decided,
    silence_is_patience,
)
