"""What is warmed, and when that is given up."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.core.warming import Candidate, Learner, Payoff, Trigger, fields_of, likely, pick

CANDIDATES = st.lists(
    st.builds(Candidate, st.integers(), st.floats(0, 1), st.integers(0, 1_000)), max_size=40, unique_by=lambda c: c.name
)


@given(CANDIDATES, st.integers(0, 20), st.integers(0, 5_000))
def test_a_pick_is_within_its_budget_and_never_of_what_is_unlikely(candidates, loads_max, bytes_max) -> None:
    picked = pick(candidates, loads_max, bytes_max)
    by_name = {candidate.name: candidate for candidate in candidates}
    assert len(picked) == len(set(picked)) <= loads_max
    assert sum(by_name[name].bytes for name in picked) <= bytes_max
    chances = [by_name[name].chance for name in picked]
    assert chances == sorted(chances, reverse=True)
    assert all(chance >= limits.CACHE_WARM_CHANCE for chance in chances)
    left = [c for c in candidates if c.name not in picked and c.chance >= limits.CACHE_WARM_CHANCE]
    if len(picked) < loads_max:
        room = bytes_max - sum(by_name[name].bytes for name in picked)
        assert all(candidate.bytes > room for candidate in left), "there was room for it"


@given(st.floats(0, 1e6), st.floats(0.1, 1e6), st.floats(0, 1e6))
def test_a_chance_is_one_and_grows_with_reads_and_with_time(count, half_life_s, life_s) -> None:
    chance = likely(count, half_life_s, life_s)
    assert 0 <= chance <= 1
    assert likely(2 * count, half_life_s, life_s) >= chance
    assert likely(count, half_life_s, 2 * life_s) >= chance
    assert likely(count, math.inf, life_s) == (count > 0)


@given(st.integers(), st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_a_way_that_does_not_pay_is_switched_off_and_one_that_does_is_not(seed, right) -> None:
    rng = random.Random(seed)
    payoff = Payoff("forecast")
    now = 0.0
    brought = 0
    for _ in range(600):
        now += 1.0
        if payoff.may(now):
            payoff.brought(100, loaded=True)
            brought += 1
            payoff.settled(now, used=rng.random() < right)
    paid = payoff.paid(now)
    assert paid.values == paid.loads == brought == paid.used + paid.unused
    assert paid.bytes == 100 * brought
    if right < 0.5:
        assert brought < 300, "after its first values it brings only a few now and then"
    if right == 1.0:
        assert (brought, paid.is_on, paid.hits_per_load) == (600, True, 1.0)


def test_loads_for_nothing_switch_a_way_off() -> None:
    payoff = Payoff("forecast")
    for _ in range(limits.CACHE_WARM_TRIAL):
        assert payoff.may(0.0)
        payoff.wasted(0.0)
    assert not payoff.may(1.0)
    assert payoff.paid(1.0).hits_per_load == 0


def test_a_way_that_begins_to_pay_is_switched_on_again() -> None:
    payoff = Payoff("trigger")
    for _ in range(limits.CACHE_WARM_TRIAL):
        assert payoff.may(0.0)
        payoff.brought(10, loaded=False)
        payoff.settled(0.0, used=False)
    assert not payoff.may(limits.CACHE_WARM_REST_S - 1)
    later = limits.CACHE_WARM_REST_S + 1
    for _ in range(limits.CACHE_WARM_TRIAL):
        assert payoff.may(later)
        payoff.brought(10, loaded=False)
    assert not payoff.may(later), "a trial is no more than a trial until it is known what became of it"
    for _ in range(limits.CACHE_WARM_TRIAL):
        payoff.settled(later, used=True)
    assert payoff.may(later)


NAMES = st.sampled_from(["a", "b", "c", "wf-1", "wf-2"])


@given(st.lists(st.tuples(NAMES, st.lists(st.tuples(st.sampled_from(["page:{x}", "log:{x}"]), NAMES), max_size=6))))
def test_what_is_expected_was_read_by_at_least_half_of_the_runs_of_late(runs) -> None:
    learner = Learner()
    for number, (id_, reads) in enumerate(runs):
        run, now = f"run-{number}", number * 2 * limits.CACHE_LEARNT_RUN_S
        expected = learner.begin(Trigger("started", run, {"id": id_}), now)
        assert len(expected) == len(set(expected)) <= limits.CACHE_LEARNT_KEYS_MAX
        if number < limits.CACHE_LEARNT_RUNS_LEAST:
            assert expected == []
        for key in expected:
            assert any(
                key == (template, id_ if x == past_id else x) for past_id, past in runs[:number] for template, x in past
            )
        for template, x in reads:
            learner.read(run, (template, x), now)


def test_a_run_reads_what_runs_before_it_read_with_its_own_names() -> None:
    learner = Learner()
    for number in range(4):
        trigger = Trigger(
            "nightly", f"wf-{number}", fields_of({"id": f"wf-{number}", "repo": f"r{number}", "n": number})
        )
        expected = learner.begin(trigger, 200.0 * number)
        if number == 3:
            assert set(expected) == {
                ("files:{repo}", "r3"), ("rules",), ("part:{id}:{n}", "wf-3", ("int", "3")),
            }  # fmt: skip
        learner.read(f"wf-{number}", ("files:{repo}", f"r{number}"), 200.0 * number + 1)
        learner.read(f"wf-{number}", ("rules",), 200.0 * number + 1)
        learner.read(f"wf-{number}", ("part:{id}:{n}", f"wf-{number}", ("int", str(number))), 200.0 * number + 1)
        learner.read(f"wf-{number}", ("odd:{x}", f"x{number}"), 200.0 * number + 1)
        learner.read("nobody", ("other",), 200.0 * number + 2)
        assert learner.begin(trigger, 200.0 * number + 3) == [], "it is said again"
        learner.read(f"wf-{number}", ("late",), 200.0 * number + limits.CACHE_LEARNT_RUN_S + 1)
