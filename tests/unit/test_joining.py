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
    pace.begin(10.0, 1)
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
        pace.begin(now, 1)
        begun.append(now)
    assert all(b - a >= 0.004 - 1e-9 for a, b in itertools.pairwise(begun))


@given(st.lists(st.tuples(st.floats(0, 0.05), st.integers(0, 100)), max_size=200))
def test_whatever_came_nobody_waits_longer_than_four_gaps(begun: list[tuple[float, int]]) -> None:
    pace, now = Pace(0.01, 1_000, 20), 0.0
    for gap, rows in begun:
        now += gap
        pace.begin(now, rows)
        assert 0 <= pace.wait_s(now, 1) <= 0.04 + 1e-9


def _steady(per_s: float) -> float:
    """The distance of transactions that take what has come since the one before."""
    pace, now, before = Pace(0.01, 1_000, 20), 0.0, 0.0
    for _ in range(200):
        before, now = now, now + max(pace.wait_s(now, 1), 1e-3)
        pace.begin(now, max(1, round(per_s * (now - before))))
    return pace.wait_s(now, 1)


def test_the_fewer_come_the_more_of_them_share_a_transaction() -> None:
    assert abs(_steady(10_000) - 0.01) < 1e-9
    assert 0.012 < _steady(1_300) < 0.02
    assert 0.03 < _steady(600) < 0.04
    assert abs(_steady(300) - 0.04) < 1e-9


def test_where_hardly_any_come_no_transaction_waits_for_them_for_long() -> None:
    assert abs(_steady(100) - 0.02) < 1e-9


def test_little_after_a_pause_goes_at_once_and_what_follows_waits_for_company() -> None:
    pace = Pace(0.01, 1_000, 20)
    pace.begin(10.0, 1)
    assert pace.wait_s(11.0, 1) == 0
    pace.begin(11.0, 1)
    assert abs(pace.wait_s(11.001, 1) - 0.019) < 1e-9
