"""Timers without a server: each firing counts once, a cancellation that came first wins."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.core.deciding import Arm, State
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


# --- tasks that do not overlap ------------------------------------------------------------------


def report(log: Log, task: str, event: str, *detail: str, agent: str = "w", **data: Any) -> None:
    log.state(agent, "task", task, event, *detail, key="t", data=data)


def ended(log: Log, task: str) -> None:
    report(log, task, "claimed", "1")
    report(log, task, "completed")


def submitted(log: Log) -> list[str]:
    return [f.id for f in log.facts if f.kind == "task" and f.event == "submitted"]


THEN = {"submit": {"capability": "work", "task": {"input": 1, "retries": 1}}}


def test_what_skips_submits_nothing_while_one_runs_and_says_so() -> None:
    log = log_of(every_s=2, overlap="skip", then=THEN)
    fire(log, 1, 1)
    (first,) = [f for f in log.facts if f.kind == "task"]
    assert (first.key, first.id) == ("t", "t-1"), "it has the timer's key"
    fire(log, 1, 2)
    report(log, "t-1", "claimed", "1")
    report(log, "t-1", "failed", error="Boom")
    fire(log, 1, 3)  # between two attempts it has not ended
    log.reload()
    report(log, "t-1", "claimed", "2")
    report(log, "t-1", "completed", agent="stranger")
    fire(log, 1, 4)
    report(log, "t-1", "completed")
    fire(log, 1, 5)
    assert submitted(log) == ["t-1", "t-5"]
    assert [(f.detail, f.data["task"]) for f in log.facts if f.event == "skipped"] == [((n,), "t-1") for n in "234"]
    timer = log.decider.get("acme", "t", "t")  # type: ignore[attr-defined]
    assert (timer.fires, timer.skipped) == (5, 3)
    log.state("a", "timer", "t", "cancelled")
    ended(log, "t-5")
    assert submitted(log) == ["t-1", "t-5"]
    assert (log.decider._running, log.decider._runs) == ({}, {})  # type: ignore[attr-defined]


def test_the_last_firing_is_skipped_as_any_other() -> None:
    log = log_of(every_s=2, overlap="skip", times_max=2, then=THEN)
    fire(log, 1, 1)
    fire(log, 1, 2)
    assert submitted(log) == ["t-1"]
    assert log.events("timer") == ["t.set", "t.fired", "t.fired", "t.skipped"]
    assert (log.decider.open_count(), log.decider._runs) == (0, {})  # type: ignore[attr-defined]


def test_what_queues_submits_one_more_when_the_one_that_runs_has_ended() -> None:
    log = log_of(every_s=2, overlap="queue", then=THEN)
    for source in (1, 2, 3):
        fire(log, 1, source)
    log.reload()
    assert submitted(log) == ["t-1"]
    ended(log, "t-1")
    assert submitted(log) == ["t-1", "t-2"]
    ended(log, "t-2")
    assert submitted(log) == ["t-1", "t-2"]
    fire(log, 1, 4)
    assert submitted(log) == ["t-1", "t-2", "t-4"]
    # Set otherwise, what waited waits no more; what runs still does.
    fire(log, 1, 5)
    log.state("a", "timer", "t", "set", data={"every_s": 3, "overlap": "queue", "then": THEN})
    seq = next(fact.seq for fact in reversed(log.facts) if fact.agent == "a")
    ended(log, "t-4")
    fire(log, seq, 6)
    assert submitted(log) == ["t-1", "t-2", "t-4", "t-6"]


@pytest.mark.parametrize("overlap", ["queue", "allow"])
def test_who_begins_to_read_at_a_later_setting_goes_on_from_what_was_before(overlap: str) -> None:
    log = log_of(every_s=2, overlap=overlap, then=THEN)
    for source in (1, 2):
        fire(log, 1, source)
    before = len(log.facts)
    log.state("a", "timer", "t", "set", data={"every_s": 3, "overlap": overlap, "then": THEN})
    seq = next(fact.seq for fact in reversed(log.facts) if fact.agent == "a")
    late = Log(TimerDecider())
    for fact in log.facts[before:]:
        late.store(fact)
    for one in (log, late):
        fire(one, seq, 3)
    numbers = ["t-1"] if overlap == "queue" else ["t-1", "t-2", "t-3"]
    assert (submitted(log), submitted(late)) == (numbers, numbers[2:])
    assert log.decider.dump().running == [] or late.decider.dump().running[0][3].waits == 3


def test_what_a_setter_says_of_what_runs_is_not_believed() -> None:
    log = log_of(every_s=2, overlap="queue", then=THEN)
    fire(log, 1, 1)
    (running,) = log.decider.dump().running
    held = {"set_seq": 1, "fires": 7, "run": msgspec.to_builtins(running[3])}
    forged = {"every_s": 2, "overlap": "queue", "then": THEN, "restated": 2**53 - 1, "held": held}
    log.state("eve", "timer", "mine", "set", data=forged)
    log.state("eve", "timer", "mine", "cancelled")
    fire(log, 1, 2)
    ended(log, "t-1")
    assert submitted(log) == ["t-1", "t-2"]


def test_what_waited_for_a_task_that_never_began_is_submitted_too() -> None:
    log = log_of(every_s=2, overlap="queue", then=THEN)
    log._stated.add(("t", "task", "t-1"))  # its id is somebody else's
    for source, after_s in ((1, 1.0), (2, 1.0), (3, 7200.0)):
        log.pass_s(after_s)
        fire(log, 1, source)
    ended(log, "t-2")
    assert submitted(log)[-2:] == ["t-2", "t-3"]


def test_a_task_that_never_began_holds_nothing_up_for_ever() -> None:
    log = log_of(every_s=2, overlap="skip", then=THEN)
    log.state("b", "task", "t-1", "submitted", "work", "normal", key="t")  # its id is somebody else's
    log._stated.add(("t", "task", "t-1"))
    fire(log, 1, 1)
    fire(log, 1, 2)
    log.pass_s(3_601)
    fire(log, 1, 3)
    assert [f.id for f in log.facts if f.event == "submitted" and f.agent == "_timer"] == ["t-3"]


def test_what_ended_before_its_timer_was_stated_again_runs_for_nobody() -> None:
    log = log_of(every_s=2, overlap="skip", then=THEN)
    fire(log, 1, 1)
    report(log, "t-1", "claimed", "1")
    (late,) = log.decider.edge(log.facts[-1].seq + 1)
    assert isinstance(late, State)
    assert late.schema == 2, "older releases would have them overlap"
    left = len(log.facts)
    report(log, "t-1", "completed")
    log.perform([late])
    begins = Log(TimerDecider())  # the log has nothing of before
    begins.facts = [log.facts[0]] * left
    for fact in log.facts[left:]:
        begins.store(fact)
    fire(begins, 1, 2)
    assert submitted(begins)[-1] == "t-2"


@pytest.mark.parametrize(
    "said",
    [
        {"at": 1.0, "then": THEN},
        {"every_s": 2},
        {"every_s": 2, "then": {"submit": {"capability": "work", "key": "k"}}},
        {"every_s": 2, "times_max": 2, "then": THEN, "overlap": "queue"},
    ],
)
def test_what_cannot_be_kept_apart_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidPayload):
        wire.check(msgspec.convert({"overlap": "skip"} | said, TimerSet), AT)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_two_of_them_never_run_at_once_and_each_firing_is_accounted_for(seed: int) -> None:
    """Whoever begins to read at what was stated again, or goes on from a snapshot, decides the same."""
    rng = random.Random(seed)
    queues = rng.random() < 0.5
    log = log_of(every_s=2, overlap="queue" if queues else "skip", then=THEN)
    open_: dict[str, int] = {}
    fired, last, begun, at, said = 0, 0, 0, 1, 0
    for _ in range(60):
        dice = rng.random()
        if dice < 0.4:
            fired += 1
            fire(log, 1, fired)
        elif dice < 0.75 and open_:
            name = rng.choice(sorted(open_))
            report(log, name, "claimed", str(open_[name] + 1))
            open_[name] += 1
            how = rng.choice(["completed", "failed", "rejected", "cancelled"])
            report(
                log, name, how, agent="a" if how == "cancelled" else "w", **({"final": True} if how == "failed" else {})
            )
            del open_[name]
        elif dice < 0.85:
            log.reload()
        elif dice < 0.9:
            said = log.facts[-1].seq
            log.perform(log.decider.edge(said + 1))
            other = TimerDecider()  # nothing of before is in the log
            for fact in log.facts[said:]:
                list(other.apply(fact))
            log.decider = other
        for fact in log.facts[at:]:
            if fact.kind == "task" and fact.event == "submitted":
                assert not open_, f"seed {seed}: {fact.id} beside {open_}"
                open_[fact.id] = 0
                assert int(fact.id.removeprefix("t-")) > last
                last, begun = int(fact.id.removeprefix("t-")), begun + 1
        at = len(log.facts)
    skipped = sum(fact.event == "skipped" for fact in log.facts)
    assert begun + skipped in ((fired, fired - 1) if queues and open_ else (fired,)), f"seed {seed}"
    if not queues:
        assert log.decider.get("acme", "t", "t").skipped == skipped  # type: ignore[attr-defined]
