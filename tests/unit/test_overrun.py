"""A claim that lasts too long is released on time; of a task that has ended its decider keeps nothing to look at."""

from __future__ import annotations

from typing import Any

import pytest

from coord import limits
from coord.core import task_decider, tasks
from coord.core.deciding import Settle
from coord.core.presence import PresenceTable
from coord.core.task_decider import EXTEND_EVERY_S, TaskDecider
from coord.core.watch import Barred
from tests.support.facts import Log


def claimed(log: Log, id_: str, **said: Any) -> None:
    log.state("me", "task", id_, "submitted", "work", "normal", data=said)
    log.state("w", "task", id_, "claimed", "1", data={"instance": "w1"})


@pytest.mark.parametrize("timeout_s", [0.5, EXTEND_EVERY_S - limits.TASK_TIMEOUT_GRACE_S, 23.0, limits.TASK_TIMEOUT_S])
@pytest.mark.parametrize("reload_every_s", [None, 7], ids=["one", "restored"])
@pytest.mark.parametrize("tick_s", [1, 2.5 * EXTEND_EVERY_S], ids=["often", "rarely"])
def test_released_with_the_tick_after_its_time(timeout_s: float, reload_every_s: int | None, tick_s: float) -> None:
    log = Log(TaskDecider())
    claimed(log, "t", timeout_s=timeout_s)
    began, ticks = log.now, 0
    while len(log.facts) == 2:
        ticks += 1
        log.pass_s(tick_s)
        if reload_every_s is not None and ticks % reload_every_s == 0:
            log.reload()
        assert ticks < 2 * limits.TASK_TIMEOUT_S
    released = log.facts[2]
    assert (released.event, released.data["reason"]) == ("released", "timeout")
    late_s = (released.stored_at - began).total_seconds() - timeout_s - limits.TASK_TIMEOUT_GRACE_S
    assert 0 <= late_s <= tick_s + 0.01


def test_a_task_that_has_ended_leaves_nothing_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_decider, "_DUE_SPARE", 10)
    decider = TaskDecider()
    log = Log(decider)
    day_s = log.now.timestamp() + 86_400
    for n in range(50):
        claimed(log, f"t{n}", **({"deadline": day_s} if n % 2 else {}))
        log.state("w", "task", f"t{n}", "completed", data={"claim": 1})
    claimed(log, "open", deadline=log.now.timestamp() + 5)
    log.pass_s(1)
    assert len(decider._due) == 1
    log.pass_s(5)
    assert log.facts[-1].event == "expired"
    log.pass_s(2 * EXTEND_EVERY_S)
    assert not decider._leases


@pytest.mark.parametrize("reload", [False, True], ids=["one", "restored"])
def test_a_quarantined_agent_that_pulls_on_is_given_a_task_ever_later(reload: bool) -> None:
    """Its deliveries are the broker's: a client that does not know of quarantine claims what it is given at once."""
    decider, table = TaskDecider(), PresenceTable(0.0)
    log = Log(decider)
    table.beat("acme", "w", "w1", b"{}", 0.0)
    table.bar({("acme", "w"): Barred("inflight", log.now.timestamp())})
    log.pass_s(2 * limits.QUARANTINE_TOLD_S, table)
    log.state("me", "task", "t", "submitted", "work", "normal")
    waits = []
    for n in range(1, 10):
        log.state("w", "task", "t", "claimed", str(n), data={"instance": "w1"})
        log.effects.clear()
        log.pass_s(0.25, table)
        assert log.facts[-1].event == "released"
        (nak,) = (effect for effect in log.effects if isinstance(effect, Settle))
        waits.append(nak.delay_s)
        log.pass_s(nak.delay_s, table)
        if reload:
            log.reload()
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])
    task = log.decider.get("acme", "t", "t")  # type: ignore[attr-defined]
    assert (task.status, task.deaths) == ("queued", 0)
    folded, _ = tasks.fold(log.facts)
    assert folded is not None
    assert (folded.barred, folded.retry_at) == (task.barred, task.retry_at)
    # A fold that begins with what was stated again agrees.
    log.state("_task", "task", "t", "submitted", "work", "normal", data=tasks.restatement(task))
    restated, _ = tasks.fold(log.facts[-1:])
    assert restated is not None
    assert (restated.barred, restated.retry_at) == (9, task.retry_at)


def test_what_a_quarantined_agent_claims_is_given_to_others() -> None:
    decider, table = TaskDecider(), PresenceTable(0.0)
    log = Log(decider)
    table.beat("acme", "w", "w1", b"{}", 0.0)
    claimed(log, "before")
    table.bar({("acme", "w"): Barred("inflight", log.now.timestamp())})
    log.pass_s(2 * limits.QUARANTINE_TOLD_S, table)
    claimed(log, "after")
    log.effects.clear()
    log.pass_s(0.25, table)
    assert [(f.id, f.event, f.data["reason"]) for f in log.facts[4:]] == [("after", "released", "quarantined")]
    assert [(push["what"], push["id"], push["claim"]) for push in log.pushes()] == [("cancel", "after", 1)]
    assert [effect.how for effect in log.effects if isinstance(effect, Settle)] == ["nak"]
    log.state("x", "task", "after", "claimed", "2", data={"instance": "x1"})
    log.pass_s(2 * EXTEND_EVERY_S, table)
    assert len(log.facts) == 6  # what it held before it finishes
    task = decider.get("acme", "after", "after")
    assert task is not None
    assert (task.claimant, task.deaths) == ("x", 0)
    table.bar({("acme", "w"): Barred("inflight", log.now.timestamp() - 5)})  # it is known here after the claim
    claimed(log, "late")
    log.pass_s(0.25, table)
    assert log.facts[-1].id == "late"
    assert log.facts[-1].event == "released"
