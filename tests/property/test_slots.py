"""The histograms' error bound, and that counts of two of them add up."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.support.slots import ERROR, LAST, percentile, seconds, slot

TIMES = st.floats(min_value=0, max_value=3e6)


@given(TIMES)
def test_a_slot_is_at_most_4_5_percent_from_any_time_in_it(time: float) -> None:
    middle = seconds(slot(time))
    if time <= 0.001:
        assert abs(middle - time) <= 0.0005
    else:
        assert abs(middle - time) <= time * (ERROR + 1e-6)
    assert ERROR < 0.045


@given(st.floats(min_value=0, max_value=1e12), st.floats(min_value=0, max_value=1e12))
def test_longer_is_never_in_an_earlier_slot(one: float, other: float) -> None:
    first, second = sorted((one, other))
    assert 0 <= slot(first) <= slot(second) <= LAST


def test_a_border_is_in_one_slot() -> None:
    assert [slot(0.001 * 2**k) for k in range(20)] == [8 * k for k in range(20)]
    assert slot(math.inf) == slot(math.nan) == LAST


@given(st.lists(TIMES, min_size=1), st.lists(TIMES), st.floats(min_value=0, max_value=1))
def test_percentiles_of_counts_that_were_added(one: list[float], other: list[float], fraction: float) -> None:
    both = Counter(map(slot, one)) + Counter(map(slot, other))
    exact = sorted(one + other)[max(1, math.ceil(fraction * len(one + other))) - 1]
    told = percentile(both, fraction)
    assert told is not None
    assert abs(told - exact) <= max(0.0005, exact * (ERROR + 1e-6))
