"""The sketch of frequent names against an exact count of the same offers."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.core.hot import HotNames

OFFERS = st.lists(
    st.tuples(st.integers(0, 30), st.floats(0, 500, allow_nan=False), st.integers(1, 64)), min_size=1, max_size=120
)


@given(OFFERS, st.integers(1, 12), st.sampled_from([0.01, 1.0, 60.0, math.inf]))
def test_counts_are_never_too_small_and_what_is_frequent_is_there(offers, capacity, half_life_s) -> None:
    sketch: HotNames[int] = HotNames(capacity, half_life_s)
    exact: Counter[int] = Counter()
    weights: dict[int, float] = {}
    now = 0.0
    for name, passed_s, weight in offers:
        now += passed_s
        decay = 2.0 ** -min(passed_s / half_life_s, 1_000.0)
        weights = {known: count * decay for known, count in weights.items()}
        weights[name] = weights.get(name, 0.0) + weight
        exact[name] += weight
        sketch.offer(name, now, weight)
    total = sum(weights.values())
    found = {hot.name: hot for hot in sketch.top(now)}
    assert len(found) == len(sketch) <= capacity
    assert sketch.total(now) == pytest.approx(total)
    slack = 1e-6 * total
    for name, hot in found.items():
        assert hot.count - hot.error - slack <= weights[name] <= hot.count + slack
        assert sketch.count(name, now) == hot.count
    for name, weight in weights.items():
        assert name in found or weight <= total / capacity + slack
    assert sum(hot.count for hot in found.values()) <= total + slack
    if math.isinf(half_life_s) and len(exact) <= capacity:
        assert {name: hot.count for name, hot in found.items()} == exact


@given(OFFERS)
def test_the_most_frequent_come_first(offers) -> None:
    sketch: HotNames[int] = HotNames(8, 60.0)
    now = 0.0
    for name, passed_s, weight in offers:
        now += passed_s
        sketch.offer(name, now, weight)
    counts = [hot.count for hot in sketch.top(now)]
    assert counts == sorted(counts, reverse=True)
    assert [hot.count for hot in sketch.top(now, 3)] == counts[:3]


def test_what_was_frequent_gives_way() -> None:
    sketch: HotNames[str] = HotNames(2, 10.0)
    sketch.offer("old", 0.0, 1_000.0)
    for second in range(200, 210):
        sketch.offer("new", float(second))
    assert [hot.name for hot in sketch.top(210.0)] == ["new", "old"]
    sketch.offer("back in time", 5.0)
    assert len(sketch) == 2
