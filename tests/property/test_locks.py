"""Locks without a server: epochs never overlap, whoever says what in whatever order."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from coord.core.locks import Lock, LockDecider
from tests.support.facts import Log, Nobody


def request(log: Log, agent: str, token: str, *, instance: str | None = "auto", **said: Any) -> int:
    about = {"instance": f"i-{agent}" if instance == "auto" else instance, **said}
    return log.state(agent, "lock", "l", "requested", token, data=about).seq


def granted(log: Log) -> list[tuple[str, int]]:
    return [(body["token"], body["epoch"]) for body in log.pushes("granted")]


def test_in_the_order_of_the_log() -> None:
    log = Log(LockDecider())
    first, second = request(log, "a", "t1"), request(log, "b", "t2")
    assert granted(log) == [("t1", first)]
    log.state("b", "lock", "l", "released", "t1")
    assert log.decider.refused == {"lock.not_holder": 1}
    log.state("a", "lock", "l", "released", "t1")
    assert granted(log) == [("t1", first), ("t2", second)]
    log.state("b", "lock", "l", "released", "t2")
    assert log.decider.open_count() == 0


def test_a_semaphore_and_who_waits_no_more() -> None:
    log = Log(LockDecider())
    for n in range(5):
        request(log, f"a{n}", f"t{n}", permits=3)
    assert [token for token, _ in granted(log)] == ["t0", "t1", "t2"]
    log.state("a3", "lock", "l", "released", "t3")
    log.state("a1", "lock", "l", "released", "t1")
    assert [token for token, _ in granted(log)] == ["t0", "t1", "t2", "t4"]
    request(log, "x", "tx", permits=1)
    assert log.pushes("refused")[0]["code"] == "lock.other_permits"


def test_of_the_dead_it_is_taken_and_they_are_told() -> None:
    log = Log(LockDecider())
    request(log, "a", "t1")
    second = request(log, "b", "t2")
    log.perform(log.decider.gone("acme", "a", "i-a", 0.0))
    log.perform(log.decider.gone("acme", "a", "i-a", 0.0))
    assert log.events().count("l.revoked") == 1
    assert log.pushes("revoked")[0]["token"] == "t1"
    assert granted(log)[-1] == ("t2", second)
    log.reload()
    log.pass_s(2, Nobody())
    assert log.decider.open_count() == 0


def test_a_lease_ends_unless_it_is_renewed() -> None:
    log = Log(LockDecider())
    request(log, "plain", "t1", instance=None)
    request(log, "b", "t2", ttl_s=5.0)
    log.pass_s(20)
    request(log, "plain", "t1", instance=None)
    log.pass_s(29)
    assert log.pushes("revoked") == []
    log.reload()
    log.pass_s(2)
    assert log.pushes("revoked")[0]["reason"] == "expired"
    log.pass_s(4)
    assert log.decider.open_count() == 1
    log.pass_s(2)
    assert log.decider.open_count() == 0


def test_who_begins_at_a_renewal_learns_whose_turn_it_is() -> None:
    """The window begins behind a lease's first request: a renewal is no new one, once that is said."""
    log = Log(LockDecider())
    first, second = request(log, "a", "t1", ttl_s=600.0), request(log, "b", "t2", ttl_s=5.0)
    since = request(log, "a", "t1", ttl_s=600.0)
    log.perform(log.decider.edge(since))
    late, over = LockDecider(), Lock(tenant="acme", key="l", id="l")
    for fact in log.facts[since - 1 :]:
        late.apply(fact)
        over.apply(fact)
    lock = late.get("acme", "l", "l")
    assert lock is not None
    assert [(one.token, one.epoch) for one in lock.requests.values()] == [("t1", first), ("t2", second)]
    assert lock.waiting[0].granted_at is None  # or its lease would end while it waits
    end = log.state("_lock", "lock", "l", "revoked", "t1", str(first), data={"epoch": first})
    log.state("_lock", "lock", "l", "requested", "t1", str(first), "2", data={"restated": 2, "held": {
        "agent": "a", "epoch": first, "since": 0.0}})  # fmt: skip
    over.apply(end)
    assert [one.token for one in over.holders] == ["t2"]
    assert log.decider.refused["lock.overtaken"] == 1


def test_stated_again_everybody_stands_where_he_stood() -> None:
    log = Log(LockDecider())
    first = request(log, "a", "t1")
    second = request(log, "b", "t2")
    last = 0
    for _ in range(2):
        last = log.facts[-1].seq
        log.perform(log.decider.edge(last + 1))
    third = request(log, "c", "t3")
    left = Log(LockDecider())
    left.facts = [log.facts[0]] * last
    for fact in log.facts[last:]:
        left.store(fact)
    lock = left.decider.get("acme", "l", "l")  # type: ignore[attr-defined]
    assert [(r.agent, r.epoch) for r in (*lock.holders, *lock.waiting)] == [("a", first), ("b", second), ("c", third)]
    assert {r.token for r in log.decider.get("acme", "l", "l").waiting} == {"t2", "t3"}  # type: ignore[attr-defined]


WHO = st.sampled_from("abc")
TOKEN = st.sampled_from(["t0", "t1", "t2", "t3"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("requested"), WHO, TOKEN),
        st.tuples(st.just("released"), WHO, TOKEN),
        st.tuples(st.just("gone"), WHO, st.just("")),
        st.tuples(st.just("revoked"), WHO, TOKEN),  # forged: not by the decider
        st.tuples(st.just("reload"), st.just(""), st.just("")),
        st.tuples(st.just("edge"), st.just(""), st.just("")),
    ),
    max_size=40,
)


@given(steps, st.integers(1, 3))
def test_epochs_never_overlap_and_only_grow(given_steps: Any, permits: int) -> None:
    log = Log(LockDecider())
    model = Lock(tenant="acme", key="l", id="l")
    holds: dict[int, str] = {}
    ended: set[int] = set()
    highest = 0
    for what, who, token in given_steps:
        start = len(log.facts)
        if what == "requested":
            request(log, who, token, permits=permits)
        elif what in ("released", "revoked"):
            log.state(who, "lock", "l", what, token)
        elif what == "gone":
            log.perform(log.decider.gone("acme", who, f"i-{who}", 0.0))
        elif what == "edge":
            log.perform(log.decider.edge(len(log.facts) + 1))
        else:
            log.reload()
        for fact in log.facts[start:]:
            model.apply(fact)
            now = {r.epoch: r.agent for r in model.holders}
            assert len(now) <= permits
            for epoch in now.keys() - holds.keys():
                assert epoch > highest, "grants go in the order of epochs"
                assert epoch not in ended, "what has ended does not come back"
                highest = epoch
            for epoch in holds.keys() - now.keys():
                ended.add(epoch)
                # Only its holder, or the decider, ended it.
                assert fact.agent in (holds[epoch], "_lock")
            holds = now
    told = list(dict.fromkeys(epoch for _, epoch in granted(log)))
    assert told == sorted(told), "grants are told in order; who asks again is told again"
    assert set(holds) <= set(told)
    found = log.decider.get("acme", "l", "l")  # type: ignore[attr-defined]
    assert msgspec.to_builtins(found.requests if found else {}) == msgspec.to_builtins(model.requests)
