"""Every transition of the tables of tasks, handoffs and timers is walked, to each outcome, and no other is possible.

Each machine is searched: from nothing, with every fact of a vocabulary, to the depth at which nothing new is met.
What was walked has to be the table, no more and no less.  The tables of workflows, of presence and of
circuits are walked one by one in tests/unit.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from coord import limits
from coord.core import handoff, tasks, timers
from coord.core.handoff import Handoff
from coord.core.tasks import Task
from coord.core.timers import Timer
from coord.wire.envelope import StoredFact

T0 = datetime(2026, 11, 21, 10, tzinfo=UTC)

Walked = dict[tuple[str, str], set[str]]


def fact(seq: int, agent: str, kind: str, event: str, *detail: str, data: Any = None) -> StoredFact:
    at = T0 + timedelta(seconds=seq)
    return StoredFact(
        "acme", agent, "e", kind, "e", event, detail, 0, seq, 0, at, at, f"e{seq}", "t", 1, None, None, None,
        msgspec.json.encode({} if data is None else data), "json",
    )  # fmt: skip


def walk(
    machine: Callable[[], Any],
    status: Callable[[Any], str],
    vocabulary: Callable[[Any, int], list[StoredFact]],
    depth: int,
    event_of: Callable[[StoredFact], str] = lambda found: found.event,
) -> Walked:
    """Search what can be reached; a state is told from another by what may follow, not by its times."""
    walked: Walked = {}
    states: list[Any] = [machine()]
    seen: set[tuple[Any, ...]] = set()
    for seq in range(1, depth + 1):
        after: list[Any] = []
        for state in states:
            for said in vocabulary(state, seq):
                copy = msgspec.convert(msgspec.to_builtins(state), type(state))
                was = status(copy)
                if copy.apply(said) is not None:
                    assert msgspec.to_builtins(copy) == msgspec.to_builtins(state), "a refused fact changes nothing"
                    continue
                walked.setdefault((was, event_of(said)), set()).add(status(copy))
                place = (
                    status(copy),
                    *(getattr(copy, n, None) for n in ("claims", "failures", "deaths", "redrives", "n", "fires")),
                )
                if (seq, *place) not in seen:
                    seen.add((seq, *place))
                    after.append(copy)
        states = after
    return walked


def of_table(table: dict[tuple[str, str], tuple[str, ...]]) -> Walked:
    return {at: set(to) for at, to in table.items()}


def test_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TASK_DEATHS_MAX", 1)  # ten would be twenty steps more

    def vocabulary(task: Task, seq: int) -> list[StoredFact]:
        def about(who: str, event: str, *detail: str, **data: Any) -> StoredFact:
            return fact(seq, who, "task", event, *detail, data=data)

        n, nexts = str(task.claims), str(task.next_claim)
        outcomes = [about("w", event) for event in ("progress", "completed", "rejected", "failed")]
        outcomes.append(about("w", "recorded", step="one"))
        return [
            about("me", "submitted", "work", "normal", retries=1),
            about("me", "submitted", "work", "normal", retries=1, redrive=task.redrives + 1),
            about("_task", "submitted", "work", "normal", retries=1, restated=task.restated + 1),
            about("w", "claimed", nexts),
            about("eve", "completed"),
            *outcomes,
            about("w", "returned", n),
            about("w", "returned", nexts),
            about("_task", "released", n),
            about("_task", "placed", nexts),
            about("me", "cancelled"),
            about("eve", "cancelled"),
            about("_task", "expired"),
            about("me", "odd"),
        ]

    def status(task: Task) -> str:
        return task.status if task.submitted_seq else "-"

    assert walk(lambda: Task(tenant="acme", key="e", id="e"), status, vocabulary, 9) == of_table(tasks.TRANSITIONS)


def test_handoffs() -> None:
    def vocabulary(offer: Handoff, seq: int) -> list[StoredFact]:
        def about(who: str, event: str, *detail: str, **data: Any) -> StoredFact:
            return fact(seq, who, "handoff", event, *detail, data=data)

        n, nexts = str(offer.n), str(offer.n + 1)
        return [
            about("me", "offered", agent="a"),
            about("me", "offered", capability="review"),
            about("_handoff", "offered", nexts, agent="a"),
            about("_handoff", "escalated", nexts, agent="a"),
            *(about(agent, event, n) for agent in ("a", "eve") for event in ("accepted", "declined")),
            about("me", "withdrawn"),
            about("eve", "withdrawn"),
            about("_handoff", "expired"),
        ]

    def status(offer: Handoff) -> str:
        return offer.status if offer.seq else "-"

    def event_of(said: StoredFact) -> str:
        return "step" if said.event == "offered" and said.detail else said.event

    found = walk(lambda: Handoff(tenant="acme", key="e", id="e"), status, vocabulary, 6, event_of)
    assert found == of_table(handoff.TRANSITIONS)


def test_timers() -> None:
    def vocabulary(timer: Timer, seq: int) -> list[StoredFact]:
        def about(who: str, event: str, **data: Any) -> StoredFact:
            return fact(seq, who, "timer", event, data=data)

        return [
            about("me", "set", at=T0.timestamp() + 100),
            about("me", "set", every_s=10.0),
            about("eve", "set", every_s=10.0),
            about("_timer", "fired", set=timer.set_seq),
            fact(seq, "_timer", "timer", "skipped", str(timer.fires), data={"set": timer.set_seq}),
            about("me", "cancelled"),
            about("eve", "cancelled"),
        ]

    def status(timer: Timer) -> str:
        return timer.status if timer.set_seq else "-"

    found: Walked = {}
    # A timer that fires once and one that goes on differ in what was said, not in what they are.
    for keep in (("at",), ("every_s",)):

        def some(timer: Timer, seq: int, keep: tuple[str, ...] = keep) -> list[StoredFact]:
            said = vocabulary(timer, seq)
            return [f for f in said if f.event != "set" or any(name in f.data for name in keep)]

        for at, to in walk(lambda: Timer(tenant="acme", key="e", id="e"), status, some, 6).items():
            found.setdefault(at, set()).update(to)
    assert found == of_table(timers.TRANSITIONS)
