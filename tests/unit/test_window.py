"""Windows: bounds, hysteresis, and when a refused caller should come back."""

from __future__ import annotations

import pytest

from coord.core.window import DrainRate, Window
from coord.errors import SettingsError


def test_a_window_admits_up_to_its_count_and_then_pauses() -> None:
    window = Window(4, 1000)
    assert [window.take(1, 10) for _ in range(5)] == [True, True, True, True, False]
    assert window.count == 4
    assert window.paused


def test_a_window_admits_up_to_its_bytes_and_then_pauses() -> None:
    window = Window(100, 1000)
    assert window.take(1, 600)
    assert not window.take(1, 401)
    assert window.size == 600


def test_a_paused_window_refuses_what_would_fit_until_it_has_drained_to_the_low_mark() -> None:
    window = Window(8, 1000)
    for _ in range(8):
        assert window.take(1, 1)
    assert not window.take(1, 1)
    assert not window.release(1, 1)
    assert not window.take(1, 1), "seven of eight are out, but it paused at eight"
    assert window.release(1, 1), "six is the low mark: this release reopens"
    assert window.take(1, 1)


def test_both_low_marks_must_be_reached() -> None:
    window = Window(100, 1000)
    assert window.take(1, 900)
    assert window.take(1, 50)
    assert not window.take(1, 100)
    assert not window.release(1, 50), "900 of 1000 bytes is above the low mark"
    assert window.release(1, 900)


def test_one_item_larger_than_the_window_passes_alone() -> None:
    window = Window(10, 100)
    assert window.take(1, 5000)
    assert not window.take(1, 1)
    assert window.release(1, 5000)
    assert window.take(1, 1)


def test_without_a_lower_mark_room_is_made_one_by_one() -> None:
    window = Window(2, 100, 1.0)
    assert window.take(1, 1)
    assert window.take(1, 1)
    assert not window.take(1, 1)
    assert window.release(1, 1)
    assert window.take(1, 1)


@pytest.mark.parametrize(("count", "size", "resume_at"), [(0, 1, 0.5), (1, 0, 0.5), (1, 1, 0.0), (1, 1, 1.1)])
def test_impossible_windows_are_refused(count: int, size: int, resume_at: float) -> None:
    with pytest.raises(SettingsError):
        Window(count, size, resume_at)


def test_retry_after_follows_the_measured_rate() -> None:
    rate = DrainRate()
    assert rate.retry_after_s(10) == 30.0, "nothing has ever moved"
    for second in range(20):
        rate.observe(second * 100, float(second))
    assert rate.per_s == pytest.approx(100, rel=0.01)
    assert rate.retry_after_s(200) == pytest.approx(2.0, rel=0.02)
    assert rate.retry_after_s(1) == 0.1, "never a busy loop"
    for second in range(20, 40):
        rate.observe(1900, float(second))
    assert rate.retry_after_s(200) == 30.0, "it has stalled"


def test_the_rate_survives_a_clock_that_stands_still_and_a_counter_that_restarts() -> None:
    rate = DrainRate()
    rate.observe(100, 1.0)
    rate.observe(200, 1.0)
    assert rate.per_s == 0.0
    rate.observe(0, 2.0)
    rate.observe(50, 3.0)
    assert rate.per_s == pytest.approx(25.0)
