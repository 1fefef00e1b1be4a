"""Timers without a server: each firing counts once, a cancellation that came first wins."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.core.deciding import Arm
from coord.core.timers import TRANSITIONS, Timer, TimerDecider
from coord.errors import InvalidPayload
from coord.wire import timing as wire
from coord.wire.envelope import StoredFact, decode_message
from coord.wire.subjects import FactSubject
from coord.wire.timing import TimerSet
from tests.support.facts import START, Log

AT = 1_900_000_000.0


def log_of(**said: Any) -> Log:
    log = Log(TimerDecider())
    log.state("a", "timer", "t", "set", data=said)
    return log


def fire(log: Log, set_seq: int, source: int) -> None:
    fact = log.fact("_timer", "timer", "t", "fired", data={"set": set_seq})
    log.store(msgspec.structs.replace(fact, event_id=f"timers-{source}"))


def arms(log: Log) -> list[Arm]:
    return [e for e in log.effects if isinstance(e, Arm)]


def test_a_timer_submits_and_raises_once_however_often_it_fires() -> None:
    now = 1_795_000_000.0
    then = {"submit": {"capability": "work", "task": {"input": 1, "instance": "i"}}, "raise": {"name": "s", "data": 2}}
    log = log_of(at=now, then=then, instance="i")
    assert [arm.schedule for arm in arms(log)] == ["@at 2026-11-18T11:06:40.000000Z"]
    fire(log, 1, 7)
    fire(log, 1, 7)
    log.reload()
    fire(log, 1, 8)
    assert log.events("task") == ["t.submitted"]
    (task,) = [f for f in log.facts if f.kind == "task"]
    assert (task.detail, task.agent, task.data["input"], task.data["carried"]["submitter"]) == (
        ("work", "normal"), "_timer", 1, "a",
    )  # fmt: skip
    assert log.events("signal") == ["s.raised"]
    assert len(log.pushes("fired")) == 1
    assert log.decider.open_count() == 0


def test_what_recurs_is_counted_and_ends() -> None:
    log = log_of(every_s=2, times_max=3, then={"submit": {"capability": "work"}})
    for source in (1, 2, 2, 1, 3, 4):
        fire(log, 1, source)
    assert [f.id for f in log.facts if f.kind == "task"] == ["t-1", "t-2", "t-3"]
    # It fires once more than it should: who was to remove it may have died.
    assert [arm.schedule for arm in arms(log)] == ["@every 2000ms", None, None]


def test_what_recurs_and_does_not_fire_is_armed_again_without_moving_what_does() -> None:
    log = log_of(every_s=60)
    for _ in range(2):
        log.pass_s(59)
        assert len(arms(log)) == 1
        log.pass_s(1)
        fire(log, 1, log.facts[-1].seq)
    log.pass_s(63)
    assert len(arms(log)) == 1
    log.pass_s(3)
    assert [arm.schedule for arm in arms(log)] == ["@every 60000ms"] * 2
    log.pass_s(62)  # it fires after a minute now, and that is waited for
    assert len(arms(log)) == 2
    log.pass_s(4)
    assert len(arms(log)) == 3


def test_cancelled_first_nothing_follows_and_only_the_setter_may() -> None:
    log = log_of(every_s=2, then={"submit": {"capability": "work"}})
    log.state("b", "timer", "t", "cancelled")
    assert log.decider.refused["timer.not_setter"] == 1
    log.state("a", "timer", "t", "cancelled")
    fire(log, 1, 1)
    assert not log.events("task")
    assert arms(log)[-1].schedule is None


def test_set_again_what_belongs_to_the_first_is_replaced() -> None:
    log = log_of(every_s=2)
    log.state("b", "timer", "t", "set", data={"every_s": 9})
    log.state("a", "timer", "t", "set", data={"every_s": 3, "then": {"submit": {"capability": "work"}}})
    assert log.decider.refused == {"timer.taken": 1}
    fire(log, 1, 1)
    assert not log.events("task")
    assert [arm.schedule for arm in arms(log)] == ["@every 2000ms", "@every 3000ms", "@every 3000ms"]


def test_what_is_overdue_or_unarmed_is_armed_again() -> None:
    log = Log(TimerDecider())
    at = log.now.timestamp() + 10
    log.state("a", "timer", "t", "set", data={"at": at})
    log.reload()
    log.effects.clear()
    log.perform(log.decider.reconcile(0))
    assert [arm.absent for arm in arms(log)] == [True]
    log.pass_s(12)
    assert len(arms(log)) == 1
    log.pass_s(5)
    assert [arm.absent for arm in arms(log)] == [True, False]


def test_near_the_end_of_the_window_it_is_set_again_as_it_is() -> None:
    log = log_of(every_s=2, then={"submit": {"capability": "work"}})
    fire(log, 1, 1)
    last = 0
    for _ in range(2):
        last = log.facts[-1].seq
        log.perform(log.decider.edge(last + 1))
    assert log.decider.oldest() == last + 1
    left = Log(TimerDecider())
    left.facts = [log.facts[0]] * last
    for fact in log.facts[last:]:
        left.store(fact)
    fire(left, 1, 1)
    fire(left, 1, 2)
    assert [f.id for f in left.facts if f.kind == "task"] == ["t-2"]
    assert left.decider.get("acme", "t", "t").setter == "a"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "said",
    [
        TimerSet(),
        TimerSet(at=1.0, every_s=2.0),
        TimerSet(every_s=0.5),
        TimerSet(at=AT + 40_000_000),
        TimerSet(cron="* * * * *"),
        TimerSet(cron="* * * * * ; x"),
        TimerSet(at=1.0, zone="Europe/Berlin"),
        TimerSet(every_s=2, times_max=0),
        TimerSet(every_s=2, then=wire.Then(submit=wire.Submit("Not a token"))),
        TimerSet(every_s=2, then=wire.Then(raise_=wire.Raise("x", data="x" * 20_000))),
    ],
)
def test_what_is_no_timer_is_refused(said: TimerSet) -> None:
    from coord.errors import WireError

    with pytest.raises(WireError):
        wire.check(said, AT)


@pytest.mark.parametrize("cron", ["0 0 3 * * *", "*/5 * * * * *", "0 30 9-17/2 1,15 JAN-MAR MON-FRI", "0 0 0 ? * L"])
def test_cron(cron: str) -> None:
    try:
        wire.check(TimerSet(cron=cron, zone="Europe/Berlin"), AT)
    except InvalidPayload as exc:
        raise AssertionError from exc


events = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("ab"), st.sampled_from(["at", "every_s"])),
        st.tuples(st.just("fired"), st.integers(0, 3), st.integers(1, 9)),
        st.tuples(st.just("cancelled"), st.sampled_from("ab"), st.just(0)),
        st.tuples(st.just("reload"), st.just(""), st.just(0)),
    ),
    max_size=30,
)


@given(events)
def test_a_firing_is_followed_just_once_and_only_while_it_is_set(given_events: Any) -> None:
    log = Log(TimerDecider())
    sets: list[int] = []
    holds: tuple[int, str, str] | None = None
    last, fires, expected = 0, 0, 0
    seen: set[tuple[str, str]] = set()
    model = Timer(tenant="acme", key="t", id="t")
    for what, who, how in given_events:
        was = model.status if model.set_seq else "-"
        start = len(log.facts)
        if what == "set":
            said: dict[str, Any] = {"at": 1.0} if how == "at" else {"every_s": 2}
            fact = log.state(who, "timer", "t", "set", data=said | {"then": {"submit": {"capability": "work"}}})
            sets.append(fact.seq)
            if holds is None or holds[1] == who:
                holds, last, fires = (fact.seq, who, how), 0, 0
        elif what == "fired":
            set_seq = sets[who % len(sets)] if sets else 99
            fire(log, set_seq, how)
            if holds is not None and holds[0] == set_seq and how > last:
                last, fires = how, fires + 1
                expected += 1
                if holds[2] == "at":
                    holds = None
        elif what == "cancelled":
            log.state(who, "timer", "t", "cancelled")
            if holds is not None and holds[1] == who:
                holds = None
        else:
            log.reload()
        for fact in log.facts[start:]:
            if fact.kind == "timer" and model.apply(fact) is None:
                assert model.status in TRANSITIONS[was, fact.event]
                seen.add((was, fact.event))
    assert len(log.pushes()) == 0
    assert log.decider.open_count() == (0 if holds is None else 1)
    # Tasks of one name are one task: what follows was demanded once for each counted firing.
    assert len([f for f in log.facts if f.kind == "task"]) <= expected


def test_what_was_taken_in_from_another_stream_has_its_place_there_as_its_id() -> None:
    source = b"NATS/1.0\r\nNats-Scheduler: coord.timer.acme.t.timer.t\r\nNats-Stream-Source: TIMERS 7 a b c d\r\n\r\n"
    subject = FactSubject("acme", "_timer", "t", "timer", "t", "fired").stored
    (fact,) = decode_message(subject, source, b'{"set":1}', 99, START)
    assert isinstance(fact, StoredFact)
    assert fact.event_id == "timers-7"
    (other,) = decode_message(subject, source.replace(b"TIMERS 7", b"nonsense"), b'{"set":1}', 99, START)
    assert isinstance(other, StoredFact)
    assert other.event_id == "events-99"


@pytest.mark.parametrize("restated", [False, True])
def test_a_task_that_was_submitted_and_has_left_the_log_is_not_begun_again_by_its_timer(restated: bool) -> None:
    """The timer lies further ahead than the log reaches back: nothing there refuses the second one when it fires."""
    then = {"submit": {"capability": "work", "task": {"input": 1}}}
    log = log_of(at=START.timestamp() + 259_200, then=then)
    log.state("b", "task", "t", "submitted", "work", "normal", data={"retries": "x"})  # nobody believes it
    log.perform(log.decider.edge(100))
    unaware = [fact for fact in log.facts if fact.kind == "timer"]
    log.state("b", "task", "t", "submitted", "work", "normal", data={"input": 2})
    if restated:  # whoever begins now has nothing else
        seq = log.facts[-1].seq
        log.perform(log.decider.edge(seq + 1))
        log.decider = TimerDecider()
        list(log.decider.apply(log.facts[-1]))
    else:
        log.reload()
    log._stated.clear()  # nothing of it is in the log any more
    fire(log, 1, 7)
    assert [fact.agent for fact in log.facts if fact.kind == "task"] == ["b", "b"]

    other = Log(TimerDecider())
    for fact in unaware:
        other.store(fact)
    fire(other, 1, 7)
    assert other.events("task") == ["t.submitted"], "what nobody believes took no id"


def test_a_timer_that_is_over_or_is_to_submit_another_task_leaves_nothing_behind() -> None:
    log = log_of(at=START.timestamp() + 259_200, then={"submit": {"capability": "work", "id": "y"}})
    log.state("b", "task", "y", "submitted", "work", "normal")
    then = {"submit": {"capability": "work", "id": "x"}}
    log.state("a", "timer", "t", "set", data={"at": START.timestamp(), "then": then})  # a task that nobody has
    fire(log, 3, 7)
    assert log.events("task") == ["y.submitted", "x.submitted"]
    log.state("b", "task", "x", "submitted", "work", "normal")
    assert (log.decider.open_count(), log.decider._to_be) == (0, {})  # type: ignore[attr-defined]
