"""How long a batch waits for company: bounded, settled, quick to change, and never in vain for long.

The simulations drive a real `Outbox` with arrivals of a seeded kind and an ack one round trip
later, as the publisher's timer does; `fixed` is the same outbox with a policy that is not adaptive.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.core.batching import BatchPolicy
from coord.core.lanes import LanePolicy
from coord.core.outbox import Outbox
from coord.core.pacing import CEASES, COMES, COMPANY_MAX, Pace
from coord.core.window import WhenFull
from tests.support.parcels import Parcel, maker

LIMIT_S = 0.1
TRIP_S = 0.002
SEEDS = range(5)


make = maker(60.0)


class Run(msgspec.Struct):
    """What a simulation saw: of each entry its arrival and its delay until sent; of each message its size."""

    entries: list[tuple[float, float]]
    messages: list[int]

    def mean_delay_s(self, since: float = 0.0) -> float:
        delays = [delay for at, delay in self.entries if at >= since]
        return sum(delays) / len(delays)

    def per_message(self) -> float:
        return len(self.entries) / len(self.messages)


def simulate(arrivals: Iterable[tuple[float, str]], *, adaptive: bool, inflight: int = 100) -> Run:
    batch = BatchPolicy(entries_max=100, size_max=10**6, linger_s=LIMIT_S, open_max=1000, adaptive=adaptive)
    policy = LanePolicy(
        name="status", when_full=WhenFull.WAIT, queue_entries=10**6, queue_bytes=10**9,
        inflight_messages=inflight, inflight_bytes=10**9, batch=batch, keyed=False,
    )  # fmt: skip
    outbox: Outbox[Parcel] = Outbox([policy])
    pace = outbox.lanes[0].pace
    run = Run([], [])
    acks: list[tuple[float, int, Parcel]] = []

    def pump(now: float) -> None:
        while (item := outbox.take(now)) is not None:
            assert len(item.entries) == item.count
            run.entries += [(at, now - at) for at in item.entries]
            run.messages.append(item.count)
            heapq.heappush(acks, (now + TRIP_S, item.ordinal, item))

    def until(now: float) -> None:
        while True:
            due = outbox.next_due()
            ack = acks[0][0] if acks else None
            first = min((t for t in (due, ack) if t is not None), default=None)
            if first is None or first > now:
                return
            if first == ack:
                _, _, item = heapq.heappop(acks)
                outbox.settle(item)
                if pace is not None:
                    pace.acked(TRIP_S, first)
            pump(first)

    at = 0.0
    for at, group in arrivals:
        until(at)
        placed = outbox.place(0, group, "label", 1, at, make)
        assert placed is not None
        placed.entries.append(at)
        pump(at)
    until(at + 10.0)
    assert not list(outbox.unsent())
    return run


def poisson(rate: float, count: int, seed: int, *, groups: int = 1, start: float = 1.0) -> Iterator[tuple[float, str]]:
    rng = random.Random(seed)
    for _ in range(count):
        start += rng.expovariate(rate)
        yield start, f"k{rng.randrange(groups)}"


def regular(every_s: float, count: int, *, start: float = 1.0) -> Iterator[tuple[float, str]]:
    return ((start + i * every_s, "k") for i in range(count))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["opened", "sealed", "late", "acked"]),
        st.sampled_from(["a", "b", "c", "d"]),
        st.floats(0, 3),
        st.integers(1, 1000),
    ),
    max_size=80,
)


@given(STEPS, st.floats(0, 2))
def test_the_linger_is_always_within_its_limit(steps: list[tuple[str, str, float, int]], limit_s: float) -> None:
    pace = Pace(3)
    now = 5.0
    for what, group, seconds, count in steps:
        now += seconds
        if what == "opened":
            pace.opened(group, now, limit_s)
        elif what == "sealed":
            pace.sealed(group, count)
        elif what == "late":
            pace.late(seconds)
        else:
            pace.acked(seconds, now)
        assert pace.delay_s >= 0
        assert len(pace._groups) <= 3
        for asked in ("a", "b", "c", "d", "never seen"):
            assert 0.0 <= pace.linger_s(asked, limit_s) <= limit_s
            assert 0.0 <= pace.company(asked) <= COMPANY_MAX


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lone_entry_and_light_load_are_not_delayed(seed: int) -> None:
    lone = simulate(regular(1.0, 50), adaptive=True)
    assert max(delay for _, delay in lone.entries) == 0.0
    light = [(at, group) for at, group in poisson(0.3 / LIMIT_S, 600, seed)]  # 0.3 expected within the limit
    adaptive, fixed = simulate(light, adaptive=True), simulate(light, adaptive=False)
    print(f"seed {seed}: adaptive {adaptive.mean_delay_s() * 1e3:.2f} ms, fixed {fixed.mean_delay_s() * 1e3:.2f} ms")
    assert adaptive.mean_delay_s() < 0.2 * fixed.mean_delay_s()


@pytest.mark.parametrize("seed", SEEDS)
def test_many_keys_that_each_come_rarely_are_sent_as_they_come(seed: int) -> None:
    """A busy lane is not idle, but none of its keys has company to wait for."""
    rare = list(poisson(2_000.0, 8_000, seed, groups=2_000))  # each key: 0.1 expected within the limit
    adaptive, fixed = simulate(rare, adaptive=True), simulate(rare, adaptive=False)
    print(f"seed {seed}: {adaptive.mean_delay_s() * 1e3:.2f} and {fixed.mean_delay_s() * 1e3:.2f} ms")
    assert adaptive.mean_delay_s() < 0.1 * fixed.mean_delay_s()
    assert len(adaptive.messages) < 1.15 * len(fixed.messages)


@pytest.mark.parametrize("seed", SEEDS)
def test_under_load_batches_grow_as_with_the_fixed_linger(seed: int) -> None:
    for rate in (100.0, 1_000.0, 20_000.0):
        load = list(poisson(rate, 4_000, seed))
        adaptive, fixed = simulate(load, adaptive=True), simulate(load, adaptive=False)
        print(f"seed {seed}, {rate:.0f}/s: {adaptive.per_message():.2f} and {fixed.per_message():.2f} a message")
        assert adaptive.per_message() > 0.8 * fixed.per_message()
        assert adaptive.mean_delay_s() <= fixed.mean_delay_s() * 1.05 + 1e-3


def modes(pace: Pace, arrivals: Iterable[tuple[float, str]]) -> list[float]:
    """The linger after each arrival, when each is a message of its own."""
    out = []
    for at, group in arrivals:
        pace.opened(group, at, LIMIT_S)
        out.append(pace.linger_s(group, LIMIT_S))
    return out


@pytest.mark.parametrize("every", [0.02, 0.1, 0.3, 0.6, 0.9, 1.1, 1.5, 3.0, 20.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_under_steady_load_the_linger_changes_once_at_most(seed: int, every: float) -> None:
    """Regular arrivals, 5 % of jitter: it settles, and stays."""
    rng = random.Random(seed)
    steady = [(at + rng.uniform(0, 0.05) * every * LIMIT_S, g) for at, g in regular(every * LIMIT_S, 400)]
    lingers = modes(Pace(10), steady)
    changes = sum(a != b for a, b in itertools.pairwise(lingers))
    assert changes <= 1, f"seed {seed}: {changes} changes"
    assert lingers[-1] == (LIMIT_S if every < 1 else 0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_comes_at_random_does_not_make_it_swing(seed: int) -> None:
    """Poisson arrivals well off one per limit: the right mode nearly always."""
    for company, right, share in ((0.2, 0.0, 0.95), (0.4, 0.0, 0.85), (2.5, LIMIT_S, 0.9), (6.0, LIMIT_S, 0.95)):
        lingers = modes(Pace(10), poisson(company / LIMIT_S, 4_000, seed))[100:]
        found = sum(linger == right for linger in lingers) / len(lingers)
        print(f"seed {seed}: {company} expected, {found:.3f} of the time {right}")
        assert found >= share


def test_after_a_step_it_is_right_within_a_handful_of_entries() -> None:
    pace = Pace(10)
    quiet = modes(pace, regular(1.0, 20, start=1.0))
    assert set(quiet[1:]) == {0.0}, "all but the first, which could not know"
    up = modes(pace, regular(0.001, 30, start=100.0))
    assert up.index(LIMIT_S) <= 3 * (COMPANY_MAX + 1)
    assert set(up[up.index(LIMIT_S) :]) == {LIMIT_S}
    down = modes(pace, regular(1.0, 20, start=200.0))
    assert down.index(0.0) <= 8
    assert set(down[down.index(0.0) :]) == {0.0}


def test_a_burst_waits_for_its_own() -> None:
    """Ten within 10 ms, once a second: one expected within the limit on average, nine in fact."""
    bursts = [(1.0 + second + i * 0.001, "k") for second in range(60) for i in range(10)]
    adaptive, fixed = simulate(bursts, adaptive=True), simulate(bursts, adaptive=False)
    assert len(adaptive.messages) <= len(fixed.messages) + 10


def test_one_that_is_late_does_not_end_the_waiting() -> None:
    pace = Pace(10)
    modes(pace, regular(0.05, 100, start=1.0))
    pace.opened("k", 50.0, LIMIT_S)  # a spell without company
    pace.opened("k", 60.0, LIMIT_S)
    assert pace.company("k") >= CEASES
    assert pace.linger_s("k", LIMIT_S) == LIMIT_S


def test_where_things_queue_they_may_as_well_wait() -> None:
    """Acks that take longer than of late, and batches that are sent late."""
    pace = Pace(10)
    for at in (1.0, 1.2, 1.25, 1.5):
        pace.opened("k", at, LIMIT_S)  # now and then one comes
    assert 0 < pace.company("k") < COMES
    assert pace.linger_s("k", LIMIT_S) == 0.0, "nothing is queued"
    for i in range(50):
        pace.acked(0.001 if i == 0 else 0.021, 2.0 + i * 0.01)
    assert pace.delay_s == pytest.approx(0.02, rel=0.01)
    assert pace.linger_s("k", LIMIT_S) == pytest.approx(0.04, rel=0.01), "twice what is queued"
    pace.late(1.0)
    assert pace.linger_s("k", LIMIT_S) == LIMIT_S


def test_a_longer_route_is_believed_in_time() -> None:
    pace = Pace(10)
    pace.acked(0.001, 0.0)
    for i in range(3_000):
        pace.acked(0.030, 0.01 * i)
    assert pace.delay_s < 0.001, "thirty seconds later 30 ms are no queue but the way"


def test_facts_without_a_key_wait_for_nobody() -> None:
    """A group each: newcomers have company until it was measured, and none from then on."""
    pace = Pace(500)
    lingers = []
    for i in range(1_000):
        pace.opened(f"id-{i}", 1.0 + i * 0.001, LIMIT_S)
        lingers.append(pace.linger_s(f"id-{i}", LIMIT_S))
    assert set(lingers[:200]) == {LIMIT_S}, "two limits after the first it is known"
    assert set(lingers[210:]) == {0.0}
    assert pace.linger_s("never seen", LIMIT_S) == 0.0
