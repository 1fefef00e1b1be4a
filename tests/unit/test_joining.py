"""Which batches share a transaction, and when it begins."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from coord.core.joining import Pace, how_many

weights = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)), max_size=40)


@given(weights, st.integers(1, 10_000), st.integers(1, 10_000))
def test_as_many_as_fit_in_order_and_at_least_one(
    waiting: list[tuple[int, int]], rows_max: int, bytes_max: int
) -> None:
    count = how_many(waiting, rows_max=rows_max, bytes_max=bytes_max)
    assert (count == 0) == (not waiting)
    if count > 1:
        assert sum(r for r, _ in waiting[:count]) <= rows_max
        assert sum(b for _, b in waiting[:count]) <= bytes_max
    if count < len(waiting):
        more = waiting[: count + 1]
        assert sum(r for r, _ in more) > rows_max or sum(b for _, b in more) > bytes_max


def test_after_a_pause_nobody_waits_and_a_crowd_never() -> None:
    pace = Pace(0.004, 1_000)
    assert pace.wait_s(10.0, 1) == 0
    pace.begin(10.0)
    assert abs(pace.wait_s(10.001, 1) - 0.003) < 1e-9
    assert pace.wait_s(10.001, 1_000) == 0
    assert pace.wait_s(10.004, 1) == 0
    assert Pace(0.0, 1).wait_s(0.0, 0) == 0


@given(st.lists(st.floats(0, 0.01), min_size=1, max_size=200))
def test_whatever_comes_transactions_keep_their_distance(arrivals: list[float]) -> None:
    pace, now, begun = Pace(0.004, 1_000), 0.0, []
    for gap in arrivals:
        now += gap
        now += pace.wait_s(now, 1)
        pace.begin(now)
        begun.append(now)
    assert all(b - a >= 0.004 - 1e-9 for a, b in itertools.pairwise(begun))
