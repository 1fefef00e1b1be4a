"""What was over while it was on its way to be stated again stays over, for whoever has seen it begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coord.core.deciding import Decider, State
from coord.core.flags import Flag, FlagDecider
from coord.core.handoff import HandoffDecider
from coord.core.handoff import fold as fold_handoff
from coord.core.locks import LockDecider
from coord.core.locks import fold as fold_lock
from coord.core.signals import SignalDecider
from coord.core.signals import fold as fold_signal
from coord.core.timers import TimerDecider
from coord.core.timers import fold as fold_timer
from coord.wire.envelope import StoredFact
from coord.wire.flagging import KEY
from tests.property.test_handoff import table
from tests.support.facts import Log

Said = tuple[str, str, tuple[str, ...], Any]
"""Kind, event, detail, data: of the entity `x`, by `a`."""


def fold_flag(facts: list[StoredFact]) -> Any:
    flag = Flag(tenant="acme", key=KEY, id="x")
    for fact in facts:
        flag.apply(fact)
    return flag


CASES: dict[str, tuple[Callable[[], Decider], Said, Said, Callable[[list[StoredFact]], bool]]] = {
    "lock": (
        LockDecider,
        ("lock", "requested", ("t",), {"instance": "i"}),
        ("lock", "released", ("t",), {}),
        lambda facts: bool(fold_lock(facts).requests),  # type: ignore[union-attr]
    ),
    "timer": (
        TimerDecider,
        ("timer", "set", (), {"every_s": 60}),
        ("timer", "cancelled", (), {}),
        lambda facts: fold_timer(facts).status == "set",  # type: ignore[union-attr]
    ),
    "wait": (
        SignalDecider,
        ("signal", "awaited", ("t",), {"instance": "i"}),
        ("signal", "resumed", ("t",), {}),
        lambda facts: bool(fold_signal(facts).waits),  # type: ignore[union-attr]
    ),
    "flag": (
        FlagDecider,
        ("flag", "set", (), {"percentage": 5.0}),
        ("flag", "removed", (), {}),
        lambda facts: fold_flag(facts).said is not None,
    ),
}


def state(log: Log, said: Said) -> None:
    kind, event, detail, data = said
    log.state("a", kind, "x", event, *detail, data=data, key=KEY if kind == "flag" else None)


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_stays_over_for_those_who_saw_it_begin(name: str, reload: bool) -> None:
    make, begins, ends, is_open = CASES[name]
    log = Log(make())
    state(log, begins)
    again = list(log.decider.edge(2))
    assert again
    state(log, ends)
    if name == "flag":
        list(log.decider.edge(3))  # and it is forgotten that it was removed
    if reload:
        log.reload()
    log.perform(again)
    assert len(log.facts) == 4, "it is taken back"
    assert log.decider.open_count() == 0
    assert not is_open(log.facts)
    assert not is_open(log.facts[2:]), "for whoever begins to read there, too"
    log.perform(again)
    assert not is_open(log.facts[2:])


def test_a_flag_that_is_set_again_meanwhile_is_not_taken_back() -> None:
    log = Log(FlagDecider())
    state(log, CASES["flag"][1])
    (late,) = list(log.decider.edge(2))
    assert isinstance(late, State)
    state(log, CASES["flag"][2])
    log.facts.append(log.fact("_flag", "flag", "x", "set", *late.detail, key=KEY, data=late.data))
    back = list(log.decider.apply(log.facts[-1]))
    assert back
    state(log, ("flag", "set", (), {"percentage": 7.0}))
    log.perform(back)
    for since in range(len(log.facts) - 1):
        assert fold_flag(log.facts[since:]).said.percentage == 7.0, since


def test_what_is_stated_again_is_newer_than_what_was_stated_again_too_late() -> None:
    """Found by the simulation: who began to read between both had the older one for ever."""
    log = Log(FlagDecider())
    state(log, ("flag", "set", (), {"percentage": 1.0}))
    late = list(log.decider.edge(2))
    state(log, ("flag", "set", (), {"percentage": 2.0}))
    log.perform(late)
    log.perform(log.decider.edge(len(log.facts)))
    for since in range(len(log.facts) - 1):
        assert fold_flag(log.facts[since:]).said.percentage == 2.0, since


def test_the_end_of_a_grant_does_not_end_the_next_one() -> None:
    """An end that was decided of a lease comes when the lock was given back and taken again, under the same token."""
    log = Log(LockDecider())
    log.state("a", "lock", "x", "requested", "t", data={"ttl_s": 1})
    expired = list(log.decider.tick(log.now.timestamp() + 5, table()))
    assert expired
    log.state("a", "lock", "x", "released", "t")
    log.state("a", "lock", "x", "requested", "t", data={"ttl_s": 30})
    log.perform(expired)
    (held,) = fold_lock(log.facts).holders  # type: ignore[union-attr]
    assert held.epoch == 3


@pytest.mark.parametrize("name", CASES)
def test_it_is_taken_by_those_who_begin_with_it(name: str) -> None:
    make, begins, _, is_open = CASES[name]
    log = Log(make())
    state(log, begins)
    for _ in range(2):  # and again
        log.perform(log.decider.edge(len(log.facts) + 1))
    late = Log(make())
    late.facts = [log.facts[0]] * 2
    late.store(log.facts[2])
    assert late.decider.open_count() == 1
    assert is_open(log.facts[2:])


def test_a_handoff_does_not_expire_where_somebody_was_asked_meanwhile() -> None:
    log = Log(HandoffDecider())
    log.perform(log.decider.tick(log.now.timestamp(), table()))
    log.state("me", "handoff", "h", "offered", data={"capability": "review", "timeout_ms": 100})
    late = log.now.timestamp() + 5
    expired = list(log.decider.tick(late, table()))
    log.perform(log.decider.tick(late, table(a={"can": ("review",)})))  # by another process, in the same moment
    log.perform(expired)
    log.state("a", "handoff", "h", "accepted", "1")
    assert log.events() == ["h.offered", "h.offered", "h.expired", "h.accepted"]
    assert log.decider.refused == {"handoff.overtaken": 1}
    assert [body["by"] for body in log.pushes("accepted")] == ["a"]
    assert not log.pushes("expired")


def test_what_an_answer_overtakes_is_no_fault() -> None:
    log = Log(HandoffDecider())
    both = table(a={"can": ("review",)}, b={"can": ("review",), "load": 0.5})
    log.perform(log.decider.tick(log.now.timestamp(), both))
    log.state("me", "handoff", "h", "offered", data={"capability": "review", "timeout_ms": 100})
    silent = list(log.decider.tick(log.now.timestamp() + 5, both))
    log.state("a", "handoff", "h", "accepted", "1")
    log.decider.recall(log.facts)
    log.perform(silent)
    assert set(log.decider.refused) <= {"handoff.overtaken"}


def test_who_begins_at_a_timer_that_fired_while_it_was_stated_again_counts_that_too() -> None:
    log = Log(TimerDecider())
    log.state("a", "timer", "x", "set", data={"every_s": 60, "times_max": 9})
    late = list(log.decider.edge(2))
    log.state("_timer", "timer", "x", "fired", data={"set": 1})
    log.perform(late)
    assert fold_timer(log.facts[2:]).fires == fold_timer(log.facts).fires == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("ends", ["accepted", "withdrawn", "expired"])
def test_who_reads_from_a_handoff_that_ended_while_it_was_stated_again_knows_its_end(ends: str) -> None:
    log = Log(HandoffDecider())
    log.perform(log.decider.tick(log.now.timestamp(), table(a={})))
    log.state("me", "handoff", "h", "offered", data={"agent": "a"})
    late = list(log.decider.edge(2))
    said = {"accepted": ("a", "1"), "withdrawn": ("me",), "expired": ("_handoff", "2")}[ends]
    log.state(said[0], "handoff", "h", ends, *said[1:])
    log.perform(late)
    assert [fact.event for fact in log.facts] == ["offered", ends, "offered"]
    assert fold_handoff(log.facts[1:]).status == fold_handoff(log.facts).status == ends  # type: ignore[union-attr]
    log.state("b", "handoff", "h", "accepted", "1")
    assert fold_handoff([log.facts[3], log.facts[2]]).status == "offered", "not said by who was asked"  # type: ignore[union-attr]
