"""The breaker's table, its bounds, and what a circuit makes of errors."""

from __future__ import annotations

import asyncio
import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from coord import errors
from coord.core.breaker import TRANSITIONS, Breaker, BreakerPolicy, Event, State, Ticket
from coord.core.retry import ONCE, CallPolicy
from coord.runtime.circuit import LEVELS, Circuit
from coord.runtime.clock import ManualClock
from coord.runtime.retrying import retrying
from coord.telemetry.metrics import Metrics

POLICY = BreakerPolicy(failures_max=3, open_first_s=1.0, open_max_s=8.0)


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "ok", "fail", "leave"]), st.floats(0, 3)), max_size=60),
    st.integers(1, 3),
    st.integers(1, 2),
)
def test_whatever_happens(steps: list[tuple[str, float]], failures_max: int, probes_max: int) -> None:
    """At most `probes_max` calls while half open, none while open, and never open for longer than its most."""
    policy = BreakerPolicy(failures_max=failures_max, open_first_s=1.0, open_max_s=4.0, probes_max=probes_max)
    breaker, rng, now = Breaker(policy), random.Random(1), 0.0
    out: list[Ticket] = []
    seen: set[tuple[State, State]] = set()
    for step, later in steps:
        now += later
        before = breaker.state
        if step == "ask":
            admitted = breaker.admit(now)
            if isinstance(admitted, Ticket):
                assert breaker.state != "open"
                assert admitted.probe is (breaker.state == "half_open")
                out.append(admitted)
            else:
                assert 0 < admitted <= policy.open_max_s
        elif out:
            ticket = out.pop(rng.randrange(len(out)))
            if step == "ok":
                breaker.succeeded(ticket)
            elif step == "fail":
                breaker.failed(ticket, now, rng)
            else:
                breaker.abandoned(ticket)
        current = [t for t in out if t.generation == breaker.generation]
        if breaker.state == "half_open":
            assert len(current) <= probes_max
        if breaker.state == "closed":
            assert breaker.failures < failures_max
        seen.add((before, breaker.state))
    assert seen <= {*((one, other) for (one, _), other in TRANSITIONS.items()), *((s, s) for s in get_args(State))}
    # However it got there: nobody asks for as long as it may be open, then one success closes it.
    now += policy.open_max_s
    for ticket in out:
        breaker.abandoned(ticket)
    admitted = breaker.admit(now)
    assert isinstance(admitted, Ticket)
    breaker.succeeded(admitted)
    assert breaker.state == "closed"


def test_every_transition_of_the_table_is_taken() -> None:
    breaker, rng = Breaker(POLICY), random.Random(1)
    taken: set[tuple[str, str]] = set()

    def go(now: float, outcome: str) -> None:
        before = breaker.state
        ticket = breaker.admit(now)
        assert isinstance(ticket, Ticket)
        if before != breaker.state:
            taken.add((before, "due"))
        before = breaker.state
        if outcome == "ok":
            breaker.succeeded(ticket)
        else:
            breaker.failed(ticket, now, rng)
        if before != breaker.state:
            taken.add((before, "tripped" if before == "closed" else "success" if outcome == "ok" else "failure"))

    for _ in range(3):
        go(0.0, "fail")
    go(100.0, "fail")
    go(200.0, "ok")
    assert taken == set(TRANSITIONS)
    assert {event for _, event in TRANSITIONS} == set(get_args(Event))
    assert set(LEVELS) == set(get_args(State))


def test_open_twice_as_long_after_every_failed_probe_and_short_again_after_a_success() -> None:
    breaker, rng, now = Breaker(POLICY), random.Random(1), 0.0
    waits = []
    for _ in range(6):
        while isinstance(ticket := breaker.admit(now), Ticket):
            breaker.failed(ticket, now, rng)
        waits.append(ticket)
        now += ticket
    for wait_s, whole in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert whole / 2 <= wait_s <= whole
    ticket = breaker.admit(now)
    assert isinstance(ticket, Ticket)
    breaker.succeeded(ticket)
    for _ in range(3):
        ticket = breaker.admit(now)
        assert isinstance(ticket, Ticket)
        breaker.failed(ticket, now, rng)
    assert isinstance(again := breaker.admit(now), float)
    assert again <= 1.0


def test_what_a_late_call_says_is_not_believed() -> None:
    breaker, rng = Breaker(POLICY), random.Random(1)
    late = breaker.admit(0.0)
    assert isinstance(late, Ticket)
    for _ in range(3):
        ticket = breaker.admit(0.0)
        assert isinstance(ticket, Ticket)
        breaker.failed(ticket, 0.0, rng)
    breaker.succeeded(late)
    assert isinstance(breaker.admit(0.1), float)  # still open
    probe = breaker.admit(10.0)
    assert isinstance(probe, Ticket)
    breaker.failed(late, 10.0, rng)
    breaker.abandoned(late)
    assert isinstance(breaker.admit(10.0), float)  # the probe still has the only place
    breaker.succeeded(probe)
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    "fields", [{"failures_max": 0}, {"probes_max": 0}, {"open_first_s": 0}, {"open_first_s": 3.0, "open_max_s": 2.0}]
)
def test_impossible_policies_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(errors.SettingsError):
        Breaker(BreakerPolicy(**fields))  # type: ignore[arg-type]


# --- circuits ------------------------------------------------------------------------------


class Outside:
    """A circuit with a clock of its own, and what its metrics say."""

    def __init__(self) -> None:
        self.now = 0.0
        self.registry = CollectorRegistry()
        self.circuit = Circuit(
            "it",
            POLICY,
            counts=(errors.DatabaseUnavailable,),
            error=errors.DatabaseCircuitOpen,
            metrics=Metrics(self.registry),
            now=lambda: self.now,
        )

    def call(self, error: BaseException | None = None) -> None:
        with self.circuit.guard():
            if error is not None:
                raise error

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"name": "it", **labels})


def test_what_counts_what_is_an_answer_and_what_says_nothing() -> None:
    it = Outside()
    down = errors.DatabaseUnavailable("gone")
    for error in (down, down, errors.DatabaseRefused("no"), down, down):
        with pytest.raises(errors.StoreError):
            it.call(error)
    assert it.circuit.closed.is_set()  # the refusal was an answer
    for nothing in (errors.Overloaded(), asyncio.CancelledError(), ValueError(), errors.NotConnected()):
        with pytest.raises(type(nothing)):
            it.call(nothing)
    assert it.circuit.closed.is_set()
    with pytest.raises(errors.DatabaseUnavailable):
        it.call(down)  # the third in a row: what says nothing did not come between
    assert not it.circuit.closed.is_set()
    with pytest.raises(errors.DatabaseCircuitOpen) as caught:
        it.call()
    assert caught.value.retryable
    assert 0.5 <= caught.value.retry_after_s <= 1.0
    assert isinstance(caught.value, errors.DatabaseUnavailable)
    assert (it.metric("coord_circuit_state"), it.metric("coord_circuit_refused_total")) == (2, 1)

    it.now = 2.0
    with pytest.raises(asyncio.CancelledError):
        it.call(asyncio.CancelledError())  # a probe that was cancelled gives its place back
    assert it.metric("coord_circuit_state") == 1
    it.call()
    assert it.circuit.closed.is_set()
    assert it.metric("coord_circuit_state") == 0
    for state in ("open", "half_open", "closed"):
        assert it.metric("coord_circuit_transitions_total", to=state) == 1


# --- retries -------------------------------------------------------------------------------


async def attempts(policy: CallPolicy, *outcomes: BaseException | int) -> tuple[object, int, float]:
    """What comes of it, how often was asked, and how long that took."""
    clock, left, asked = ManualClock(), list(outcomes), 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    task = asyncio.ensure_future(retrying(ask, policy, rng=random.Random(1), clock=clock))
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(0.01)
    found = task.exception() or task.result()
    return found, asked, clock.monotonic()


async def test_at_most_three_repeats_by_default_with_backoff() -> None:
    down = errors.ServiceUnavailable("none")
    assert (await attempts(CallPolicy(), down, down, down, 7))[:2] == (7, 4)
    error, asked, took_s = await attempts(CallPolicy(), down, down, down, down, 7)
    assert (error, asked) == (down, 4)
    assert 0.35 <= took_s <= 0.8  # 0.1 + 0.2 + 0.4, half of each random
    refusal = errors.InvalidRequest("never")
    assert (await attempts(CallPolicy(), refusal, 7))[:2] == (refusal, 1)
    assert (await attempts(ONCE, down, 7))[:2] == (down, 1)


async def test_who_says_when_to_come_back_is_believed() -> None:
    soon = errors.CircuitOpen(retry_after_s=1.5)
    found, asked, took_s = await attempts(CallPolicy(), soon, 7)
    assert (found, asked) == (7, 2)
    assert took_s >= 1.5
    late = errors.Overloaded(retry_after_s=10)
    assert (await attempts(CallPolicy(), late, 7))[:2] == (late, 1)


async def test_with_a_deadline_it_is_asked_until_then_however_often() -> None:
    patient = CallPolicy(retries_max=None, deadline_s=20.0)
    down = errors.ServiceUnavailable("none")
    assert (await attempts(patient, *[down] * 9, 7))[:2] == (7, 10)
    error, asked, took_s = await attempts(patient, *[down] * 99)
    assert error is down
    assert 10 <= asked <= 30  # 2 s between two of them, half of each random
    assert 17.9 <= took_s < 20.0  # the next would have begun later
    refusal = errors.InvalidRequest("never")
    assert (await attempts(patient, down, refusal, 7))[:2] == (refusal, 2)
    assert (await attempts(CallPolicy(retries_max=1, deadline_s=20.0), down, down, 7))[:2] == (down, 2)
    assert (await attempts(CallPolicy(retries_max=None, deadline_s=0.0), down, 7))[:2] == (down, 1)


async def test_with_a_deadline_who_says_when_to_come_back_is_believed_up_to_it() -> None:
    patient = CallPolicy(retries_max=None, deadline_s=20.0)
    found, asked, took_s = await attempts(patient, errors.Overloaded(retry_after_s=10), 7)
    assert (found, asked) == (7, 2)
    assert took_s >= 10
    late = errors.Overloaded(retry_after_s=21)
    assert (await attempts(patient, late, 7))[:2] == (late, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"retries_max": -1},
        {"first_s": 0.0},
        {"first_s": 2.0, "most_s": 1.0},
        {"retries_max": None},
        {"deadline_s": -1.0},
    ],
)
def test_impossible_retries_are_refused(fields: dict[str, float | None]) -> None:
    with pytest.raises(errors.SettingsError):
        CallPolicy(**fields).validate()  # type: ignore[arg-type]
