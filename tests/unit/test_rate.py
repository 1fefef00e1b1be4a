"""A rate is kept over any time, and what was saved up is a second's worth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coord.core.rate import Rate


@given(st.floats(0.5, 1000), st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 5)), max_size=100))
def test_who_waits_as_told_never_exceeds_the_rate(per_s: float, asks: list[tuple[float, int]]) -> None:
    now, spent = 0.0, 0
    rate = Rate(per_s, now)
    for pause, count in asks:
        now += pause
        now += rate.take(count, now)
        spent += count
        assert spent <= max(1.0, per_s) + per_s * now + 1e-6


def test_a_second_is_saved_up_and_no_more() -> None:
    rate = Rate(10, 0.0)
    assert rate.take(10, 100.0) == 0
    assert rate.take(1, 100.0) == 0.1
    assert rate.wait_s(100.0) == 0.2
    assert rate.wait_s(100.2) < 1e-9
    assert rate.room(100.2) > 0.99
    rate.take(5, 100.2)
    assert rate.room(100.2) < 0
