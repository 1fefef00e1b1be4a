"""Handoffs without a server: who is asked, in which order, and that just one has it in the end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.core.deciding import Push
from coord.core.handoff import TRANSITIONS, Handoff, HandoffDecider
from coord.core.presence import PresenceTable
from tests.support.facts import Log


def table(**agents: dict[str, Any]) -> PresenceTable:
    """`name=dict(load=…, can=("review",), above="boss")`."""
    found = PresenceTable(0.0)
    for name, about in agents.items():
        said = {
            "load": about.get("load", 0.0),
            "about": {
                "instance": f"i-{name}",
                "capabilities": dict.fromkeys(about.get("can", ()), 1),
                "coordinator": about.get("above"),
            },
        }
        found.beat("acme", name, f"i-{name}", msgspec.json.encode(said), 0.0)
    return found


def log_of(presence: PresenceTable, **said: Any) -> Log:
    log = Log(HandoffDecider())
    log.perform(log.decider.tick(log.now.timestamp(), presence))
    log.state("me", "handoff", "h", "offered", data={"work": 1, "instance": "i-me", **said})
    return log


def asked(log: Log) -> list[str]:
    return [e.agent for e in log.effects if isinstance(e, Push) and e.body["what"] == "offered"]


def handoff_of(log: Log) -> Handoff:
    found: Handoff | None = log.decider.get("acme", "h", "h")  # type: ignore[attr-defined]
    assert found is not None
    return found


def test_to_an_agent_who_accepts() -> None:
    log = log_of(table(a={}), agent="a", reason="yours", context={"k": 1})
    (told,) = [e.body for e in log.effects if isinstance(e, Push)]
    assert (told["from"], told["reason"], told["work"], told["context"], told["n"]) == ("me", "yours", 1, {"k": 1}, 1)
    log.state("b", "handoff", "h", "accepted", "1")
    assert log.decider.refused == {"handoff.not_addressee": 1}
    log.state("a", "handoff", "h", "accepted", "1", data={"note": "ok"})
    assert log.pushes("accepted") == [
        {"what": "accepted", "key": "h", "id": "h", "n": 1, "instance": "i-me", "by": "a", "note": "ok"}
    ]
    assert log.decider.open_count() == 0


def test_the_least_loaded_first_then_the_next_then_the_coordinators_up_to_the_top() -> None:
    presence = table(
        a={"load": 0.5, "can": ("review",), "above": "lead"},
        b={"load": 0.1, "can": ("review",), "above": "lead"},
        c={"load": 0.0, "can": ("other",)},
        lead={"above": "chief"},
        chief={},
    )
    log = log_of(presence, capability="review")
    assert asked(log) == ["b"]
    log.state("b", "handoff", "h", "declined", "1", data={"reason": "busy"})
    assert asked(log) == ["b", "a"]
    assert log.pushes("declined")[0]["reason"] == "busy"
    log.pass_s(4, presence)
    assert len(asked(log)) == 2
    log.pass_s(1.1, presence)  # silent
    assert asked(log) == ["b", "a", "lead"]
    log.reload()
    log.perform(log.decider.tick(log.now.timestamp(), presence))
    log.state("lead", "handoff", "h", "declined", "3")
    assert asked(log) == ["b", "a", "lead", "lead", "chief"], "once more by who cannot know that it heard"
    log.state("chief", "handoff", "h", "declined", "4")
    assert log.events()[-1] == "h.expired"
    assert log.pushes("expired")[0]["reason"] == "declined"


def test_who_dies_is_not_waited_for() -> None:
    presence = table(a={"load": 0.0, "can": ("review",)}, b={"load": 0.1, "can": ("review",)})
    log = log_of(presence, capability="review")
    log.perform(log.decider.gone("acme", "a", "i-a", 0.0))
    assert asked(log) == ["a", "b"]


def test_a_capability_that_nobody_has_waits_then_goes_to_the_offerers_coordinator() -> None:
    presence = table(me={"above": "lead"}, lead={})
    log = log_of(presence, capability="review")
    log.pass_s(1, presence)
    assert asked(log) == []
    later = table(a={"can": ("review",)}, me={"above": "lead"}, lead={})
    other = log_of(presence, capability="review")
    other.pass_s(1, later)
    assert asked(other) == ["a"]
    log.pass_s(5, presence)
    assert asked(log) == ["lead"]
    alone = log_of(table(), capability="review")
    alone.pass_s(6, table())
    assert alone.events()[-1] == "h.expired"


@pytest.mark.parametrize(("blind", "reason"), [(True, "silent"), (False, "nobody")])
def test_nobody_is_of_that_name_only_where_it_would_have_been_heard(blind: bool, reason: str) -> None:
    """A process that has just started, or is cut off, does not know who is there."""
    presence = PresenceTable(0.0, settle_s=0.0)
    if blind:
        presence.blind()
    log = log_of(presence, agent="a")
    log.pass_s(6, presence)
    assert log.events()[-1] == "h.expired"
    assert log.pushes("expired")[0]["reason"] == reason


def test_stated_again_it_goes_on_where_it_stood() -> None:
    presence = table(a={"can": ("review",)}, b={"load": 0.1, "can": ("review",)})
    log = log_of(presence, capability="review")
    last = 0
    for _ in range(2):
        last = log.facts[-1].seq
        log.perform(log.decider.edge(last + 1))
    left = Log(HandoffDecider())
    left.perform(left.decider.tick(left.now.timestamp(), presence))
    left.facts = [log.facts[0]] * last
    for fact in log.facts[last:]:
        left.store(fact)
    found, before = handoff_of(left), handoff_of(log)
    assert (found.offerer, found.n, found.addressee, found.tried) == ("me", 1, "a", ("a",))
    assert (before.n, before.addressee, before.seq) == (1, "a", last + 1)
    left.state("a", "handoff", "h", "declined", "1")
    assert asked(left)[-1] == "b"


def test_what_has_ended_is_not_offered_again() -> None:
    log = log_of(table(a={}), agent="a")
    log.state("a", "handoff", "h", "accepted", "1")
    again = log.fact("me", "handoff", "h", "offered", data={"agent": "a"})
    assert log.decider.forgot(again)
    log.decider.recall(log.facts)
    log.store(again)
    assert log.decider.refused == {"handoff.exists": 1}
    assert asked(log) == ["a"]


@pytest.mark.parametrize(
    ("asks", "code"),
    [({}, "told"), ({"work": {"n": 1}}, "malformed"), ({"timeout_ms": 9}, "malformed"), ({"ref": {}}, "malformed")],
)
def test_only_what_asks_for_nothing_is_a_record(asks: dict[str, Any], code: str) -> None:
    log = Log(HandoffDecider())
    log.state("me", "handoff", "h", "offered", data={"to": "clerk", "reason": "next", "work": None, **asks})
    assert log.decider.refused == {f"handoff.{code}": 1}


@pytest.mark.parametrize(
    ("again", "code"),
    [
        ({"context": {"b": 2, "a": {"y": 1, "x": 0}}, "agent": "a", "work": 1, "reason": "once more"}, "repeated"),
        ({"agent": "a", "work": 1, "context": {"a": {"x": 0, "y": 2}, "b": 2}}, "exists"),
        ({"agent": "a", "work": 2, "context": {"a": {"x": 0, "y": 1}, "b": 2}}, "exists"),
        ({"agent": "b", "work": 1, "context": {"a": {"x": 0, "y": 1}, "b": 2}}, "exists"),
        ({"capability": "a", "work": 1, "context": {"a": {"x": 0, "y": 1}, "b": 2}}, "exists"),
    ],
)
def test_the_same_offer_again_is_a_repetition(again: dict[str, Any], code: str) -> None:
    log = log_of(table(a={}), agent="a", work=1, context={"a": {"x": 0, "y": 1}, "b": 2})
    for _ in range(2):
        log.state("me", "handoff", "h", "offered", data=again)
        log.perform(log.decider.edge(log.facts[-1].seq + 1))  # and when it was stated again
    assert log.decider.refused == {f"handoff.{code}": 2}
    assert asked(log) == ["a"]


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["accepted", "declined"]), st.sampled_from("abc"), st.integers(1, 4)),
        st.tuples(st.just("withdrawn"), st.sampled_from(["me", "a"]), st.just(0)),
        st.tuples(st.just("gone"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("time"), st.just(""), st.integers(1, 6)),
        st.tuples(st.just("reload"), st.just(""), st.just(0)),
    ),
    max_size=20,
)


@given(steps, st.booleans())
def test_one_has_it_in_the_end_and_only_who_was_asked(given_steps: Any, to_capability: bool) -> None:
    about = {n: {"load": i / 10, "can": ("review",), "above": "c"} for i, n in enumerate("ab")}
    presence = table(**about, c={})
    log = log_of(presence, **({"capability": "review"} if to_capability else {"agent": "a"}))
    for what, who, n in given_steps:
        if what in ("accepted", "declined"):
            log.state(who, "handoff", "h", what, str(n))
        elif what == "withdrawn":
            log.state(who, "handoff", "h", what)
        elif what == "gone":
            log.perform(log.decider.gone("acme", who, f"i-{who}", 0.0))
        elif what == "time":
            log.pass_s(n, presence)
        else:
            log.reload()
            log.perform(log.decider.tick(log.now.timestamp(), presence))
    model = Handoff(tenant="acme", key="h", id="h")
    accepted = 0
    for fact in log.facts:
        was, addressee = (model.status if model.seq else "-"), model.addressee
        if model.apply(fact) is None:
            event = "step" if fact.event == "offered" and fact.detail else fact.event
            assert model.status in TRANSITIONS[was, event]
            if event == "accepted":
                accepted += 1
                assert fact.agent == addressee
    assert accepted <= 1
    assert len(set(model.tried)) == len(model.tried), "nobody is asked twice"
    assert len(log.pushes("accepted")) == accepted
    assert model.ended == (log.decider.open_count() == 0)
    for _ in range(20):  # left alone, it ends
        log.pass_s(6, presence)
    assert log.decider.open_count() == 0


def test_who_is_asked_by_name_and_comes_later_is_told_then() -> None:
    presence = table(me={})
    log = log_of(presence, agent="a")
    log.pass_s(1, presence)
    assert told_to(log) == [None]  # whoever it is, at once
    comes(presence, "a", "i1")
    log.pass_s(0.3, presence)
    log.pass_s(0.3, presence)
    assert told_to(log) == [None, "i1"]
    comes(presence, "a", "i2")  # the other ones think about it
    log.pass_s(0.3, presence)
    assert told_to(log) == [None, "i1", "i2"]
    log.reload()  # another process cannot know who heard
    log.pass_s(0.3, presence)
    log.pass_s(0.3, presence)
    assert told_to(log) == [None, "i1", "i2", "i1", "i2"]
    presence.beat("acme", "a", "i1", b'{"bye":true}', 1.0)
    log.pass_s(0.3, presence)
    comes(presence, "a", "i1", at=2.0)
    log.pass_s(0.3, presence)
    assert told_to(log)[-1] == "i1"
    assert len(told_to(log)) == 6
    log.state("a", "handoff", "h", "accepted", "1", data={"instance": "i1"})
    comes(presence, "a", "i3")
    log.pass_s(0.3, presence)
    assert len(told_to(log)) == 6, "it has ended"
    assert log.events() == ["h.offered", "h.accepted"]


def test_who_comes_to_many_offers_is_told_of_some_at_a_time_and_of_those_that_are_open() -> None:
    """An instance declines what is beyond the offers that it thinks about."""
    presence = table(me={})
    log = log_of(presence, agent="a")
    for number in range(50):
        log.state("me", "handoff", f"h{number}", "offered", data={"work": 1, "agent": "a", "timeout_ms": 60_000})
    comes(presence, "a", "i1")
    log.pass_s(0.3, presence)
    told = told_of(log, "i1")
    assert len(told) == limits.HANDOFFS_AT_ONCE // 2
    log.state("me", "handoff", "h49", "withdrawn")
    for _ in range(3):
        log.pass_s(0.3, presence)
    assert told_of(log, "i1") == ["h", *(f"h{number}" for number in range(49))]


def comes(presence: PresenceTable, agent: str, instance: str, at: float = 1.0) -> None:
    presence.beat("acme", agent, instance, msgspec.json.encode({"about": {"instance": instance}}), at)


def told_to(log: Log) -> list[str | None]:
    return [e.instance for e in log.effects if isinstance(e, Push) and e.body["what"] == "offered"]


def told_of(log: Log, instance: str) -> list[str]:
    return [e.body["id"] for e in log.effects if isinstance(e, Push) and e.instance == instance]
