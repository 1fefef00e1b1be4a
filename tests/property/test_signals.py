"""Signals without a server: told whatever came first, cycles found as brute force finds them."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.core import signals as core
from coord.core.signals import SignalDecider, Wait
from coord.wire.latch import KEY, Edge, words
from tests.support.facts import Log, Nobody

NAMES = ["a", "b", "c", "d"]


def awaited(log: Log, agent: str, wait: str, *names: str, mode: str = "all", provides: tuple[str, ...] = ()) -> None:
    for name in names:
        said = {"names": names, "mode": mode, "instance": f"i-{agent}", "provides": provides}
        log.state(agent, "signal", name, "awaited", wait, key=KEY, data=said)


def test_whoever_waits_is_told_before_or_after() -> None:
    log = Log(SignalDecider())
    awaited(log, "early", "w1", "ready")
    log.state("x", "signal", "ready", "raised", key=KEY, data={"data": {"n": 1}})
    awaited(log, "late", "w2", "ready")
    told = log.pushes("raised")
    assert [(body["wait"], body["data"]) for body in told] == [("w1", {"n": 1}), ("w2", {"n": 1})]
    log.state("y", "signal", "ready", "raised", key=KEY, data={"data": 2})
    latch = log.decider.get("acme", KEY, "ready")  # type: ignore[attr-defined]
    assert (latch.raised_by, latch.data, latch.waits) == ("x", {"n": 1}, {})
    assert len(log.pushes()) == 2


def test_large_data_is_not_told_but_said_to_be_in_the_log() -> None:
    log = Log(SignalDecider())
    log.state("x", "signal", "ready", "raised", key=KEY, data={"data": "x" * 5_000})
    awaited(log, "a", "w", "ready")
    assert log.pushes()[0]["more"] is True


def test_a_cycle_is_named_to_everybody_on_it() -> None:
    log = Log(SignalDecider())
    awaited(log, "memory", "w1", "log-ready", provides=("memory-ready",))
    awaited(log, "bystander", "w0", "other")
    awaited(log, "log", "w2", "memory-ready", provides=("log-ready",))
    told = log.pushes("deadlocked")
    assert {(body["wait"], body["id"]) for body in told} == {("w1", "log-ready"), ("w2", "memory-ready")}
    cycle = tuple(msgspec.convert(edge, Edge) for edge in told[0]["cycle"])
    assert words(cycle) == "log waits for memory-ready, memory waits for log-ready"
    assert "log.signal" not in log.events()
    assert {w.deadlock for _, w in log.decider.waits() if w.wait != "w0"} == {words(cycle)}  # type: ignore[attr-defined]


def test_a_cycle_is_named_though_the_rest_was_raised_while_the_wait_was_stated() -> None:
    log = Log(SignalDecider())
    awaited(log, "b", "w1", "a-ready", provides=("b-ready",))
    said = {"names": ("b-ready", "x"), "instance": "i-a", "provides": ("a-ready",)}
    log.state("a", "signal", "b-ready", "awaited", "w2", key=KEY, data=said)
    log.state("x", "signal", "x", "raised", key=KEY)
    assert log.pushes("deadlocked") == []
    log.state("a", "signal", "x", "awaited", "w2", key=KEY, data=said)
    assert {body["wait"] for body in log.pushes("deadlocked")} == {"w1", "w2"}


def test_who_was_on_one_cycle_is_told_of_the_next() -> None:
    log = Log(SignalDecider())
    awaited(log, "h1", "w1", "h0-ready", "h2-ready", provides=("h1-ready",))
    awaited(log, "h2", "w2", "h1-ready", "h0-ready", provides=("h2-ready",))
    awaited(log, "h0", "w0", "h2-ready", "h1-ready", provides=("h0-ready",))
    for name in ("h0-ready", "h2-ready"):
        log.state("h1", "signal", name, "resumed", "w1", key=KEY, data={"reason": "deadlocked"})
    log.state("h1", "signal", "h1-ready", "raised", key=KEY)
    left = {(latch.id, wait.wait) for latch, wait in log.decider.waits() if wait.deadlock}  # type: ignore[attr-defined]
    assert left == {("h2-ready", "w0"), ("h0-ready", "w2")}


def test_a_cycle_that_is_broken_before_it_is_said_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(SignalDecider())
    awaited(log, "h2", "w2", "h1-ready", provides=("a", "b"))
    with monkeypatch.context() as slow:
        slow.setattr(log, "perform", lambda _: None)  # what follows is on its way
        awaited(log, "h1", "w1", "a", "b", provides=("h1-ready",))
        log.state("z", "signal", "a", "raised", key=KEY)
    assert log.pushes("deadlocked") == []
    log.state("_signal", "signal", "a", "deadlocked", "w1", key=KEY, data={})
    assert {(body["wait"], body["id"]) for body in log.pushes("deadlocked")} == {("w1", "b"), ("w2", "h1-ready")}


def test_no_cycle_where_one_of_several_providers_is_free_or_one_of_any() -> None:
    log = Log(SignalDecider())
    awaited(log, "a", "w1", "b-ready", provides=("a-ready",))
    awaited(log, "b", "w2", "a-ready", "x", mode="any", provides=("b-ready",))
    assert log.pushes("deadlocked") == []


def test_who_dies_waits_no_more_and_only_the_waiter_may_say_so() -> None:
    log = Log(SignalDecider())
    awaited(log, "a", "w1", "x", "y")
    log.state("b", "signal", "x", "resumed", "w1", key=KEY)
    assert log.decider.refused["signal.not_waiter"] == 1
    log.perform(log.decider.gone("acme", "a", "i-a", 0.0))
    assert [e for e in log.events() if "resumed" in e] == ["x.resumed", "x.resumed", "y.resumed"]
    assert log.decider.open_count() == 0
    awaited(log, "a", "w2", "x")
    log.reload()
    log.pass_s(10, Nobody())
    assert log.decider.open_count() == 0


def test_what_is_open_is_stated_again_at_the_edge_of_the_window() -> None:
    log = Log(SignalDecider())
    log.state("x", "signal", "ready", "raised", key=KEY, data={"data": {"n": 1}})
    awaited(log, "a", "w1", "other", provides=("p",))
    before = {latch.id: msgspec.to_builtins(latch) for latch in log.decider._latches.values()}  # type: ignore[attr-defined]
    assert log.decider.oldest() == 1
    last = 0
    for _ in range(2):  # and again
        last = log.facts[-1].seq
        log.perform(log.decider.edge(last + 1))
        assert log.decider.oldest() == last + 1
    # Whoever reads only what is left knows the same.
    left = Log(SignalDecider())
    left.facts = [log.facts[0]] * last
    for fact in log.facts[last:]:
        left.store(fact)
    for name in ("ready", "other"):
        found = msgspec.to_builtins(left.decider.get("acme", KEY, name))  # type: ignore[attr-defined]
        for latch in (found, before[name]):
            for one in (latch, *latch.get("waits", {}).values()):
                for changing in ("seq", "raised_seq", "begun_seq", "restated"):
                    one.pop(changing, None)
        assert found == before[name]


waits = st.lists(
    st.tuples(
        st.sampled_from(NAMES),  # provides
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True),
        st.sampled_from(["all", "any"]),
    ),
    max_size=6,
)


@given(waits, st.sets(st.sampled_from(NAMES), max_size=1))
def test_a_cycle_is_found_just_where_no_order_of_raising_helps(given_waits, raised) -> None:
    those = [
        Wait(wait=f"w{n}", agent=f"g{n}", names=tuple(names), mode=mode, provides=(provides,))
        for n, (provides, names, mode) in enumerate(given_waits)
    ]

    def providers(name: str) -> list[Wait]:
        return [w for w in those if name in w.provides]

    # Brute force: signals that nobody provides are raised by somebody outside; run whoever can.
    up = set(raised) | {name for name in NAMES if not providers(name)}
    done: set[str] = set()
    for _ in range(len(those) + 1):
        for wait in those:
            if (all if wait.mode == "all" else any)(name in up for name in wait.names):
                done.add(wait.wait)
                up.update(wait.provides)
    for wait in those:
        cycle = core.find_cycle(wait, providers, lambda name: name in raised)
        assert bool(cycle) == (wait.wait not in done)
        for edge, following in itertools.pairwise((*cycle, *cycle[:1])):
            assert following.wait in {w.wait for w in providers(edge.name)}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("raise"), st.sampled_from(NAMES), st.just(""), st.just("all")),
        st.tuples(
            st.just("wait"),
            st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple),
            st.sampled_from(["p", "q"]),
            st.sampled_from(["all", "any"]),
        ),
        st.tuples(st.just("reload"), st.just(""), st.just(""), st.just("all")),
        st.tuples(st.just("gone"), st.just(""), st.sampled_from(["p", "q"]), st.just("all")),
    ),
    max_size=25,
)


@given(steps)
def test_no_raise_is_lost_to_anybody_who_waits(given_steps) -> None:
    log = Log(SignalDecider())
    up: set[str] = set()
    owed: set[tuple[str, str]] = set()
    live: dict[tuple[str, str], str] = {}
    for n, (what, names, agent, mode) in enumerate(given_steps):
        if what == "raise":
            log.state("x", "signal", names, "raised", key=KEY, data={"data": 1})
            owed |= {place for place in live if place[1] == names}
            live = {place: who for place, who in live.items() if place[1] != names}
            up.add(names)
        elif what == "wait":
            awaited(log, agent, f"w{n}", *names, mode=mode)
            for name in names:
                if name in up:
                    owed.add((f"w{n}", name))
                else:
                    live[f"w{n}", name] = agent
        elif what == "gone":
            log.perform(log.decider.gone("acme", agent, f"i-{agent}", 0.0))
            live = {place: who for place, who in live.items() if who != agent}
        else:
            log.reload()
    assert {(body["wait"], body["id"]) for body in log.pushes("raised")} == owed
    assert {(w.wait, latch.id) for latch, w in log.decider.waits()} == set(live)  # type: ignore[attr-defined]
