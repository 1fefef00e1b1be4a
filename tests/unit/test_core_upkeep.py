"""What maintenance may do now, and how much of it: from times and counts alone."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.core import upkeep
from coord.core.upkeep import DAY_S

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def test_held_beyond_half_the_hot_age() -> None:
    assert upkeep.held(3.5 * DAY_S, 0, hot_days=7) is None
    assert "more than half the hot age (3.5 d)" in str(upkeep.held(3.6 * DAY_S, 0, hot_days=7))
    assert "nobody has projected for 4.0 d" in str(upkeep.held(0, 4 * DAY_S, hot_days=7))


def test_refused_when_shorter_than_the_lag() -> None:
    assert upkeep.refused(10 * DAY_S, None) is None
    assert upkeep.refused(10 * DAY_S, 10.1) is None
    assert "dropped after 10.0 d" in str(upkeep.refused(10 * DAY_S, 10))


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [
        (NOON, None, False),  # nobody was ever there: not at noon
        (NOON, NOON - timedelta(hours=9), False),
        (NOON, NOON.replace(hour=2), False),
        (NOON, NOON.replace(hour=1, minute=59), True),
        (NOON, NOON - timedelta(days=30), True),  # nobody was there for a month
        (NOON.replace(hour=1), NOON - timedelta(days=1), False),
        (NOON.replace(hour=2), NOON - timedelta(days=1), True),
    ],
)
def test_due_once_a_day_or_as_soon_as_somebody_is_there(now: datetime, last: datetime | None, due: bool) -> None:
    assert upkeep.is_due(now, last, "02:00") is due
    following = upkeep.next_due(now, last, "02:00")
    assert (following == now) is due or now.hour == 2
    assert timedelta(0) <= following - now <= timedelta(days=1)


@given(st.datetimes(timezones=st.just(UTC)), st.timedeltas(timedelta(seconds=1), timedelta(days=400)))
def test_what_was_done_at_its_time_is_not_due_for_a_day(last: datetime, later: timedelta) -> None:
    last = max(last.replace(hour=2, minute=0, second=0, microsecond=0), datetime(1970, 1, 2, 2, tzinfo=UTC))
    if last.year < 9000:
        assert upkeep.is_due(last + later, last, "02:00") == (later >= timedelta(days=1))


@given(st.floats(0.01, 86_400), st.integers(0, 10**7), st.sampled_from([limits.ROLLUP_WIDTH_MIN_S, 60.0, 3_600.0]))
def test_a_step_of_a_rollup_aims_at_a_batch(width_s: float, rows: int, least_s: float) -> None:
    width_s = max(width_s, least_s)
    following = upkeep.next_width_s(width_s, rows, least_s=least_s)
    assert least_s <= following <= max(limits.ROLLUP_WIDTH_MAX_S, least_s)
    assert following <= 4 * width_s * (1 + 1e-9)  # in whole multiples of the least, as floats have them
    assert following >= min(width_s, limits.ROLLUP_WIDTH_MAX_S) / 4 - 1.001 * least_s
    if rows > 4 * limits.MAINTAIN_BATCH_ROWS and width_s > 8 * least_s:
        assert following < width_s
    # Whole multiples of the least: a bucket of the level below is not cut.
    assert round(following / least_s, 6) == pytest.approx(round(following / least_s))


@given(st.integers(0, 10**8), st.floats(0, 3_600), st.floats(1, 3_600))
def test_rollups_are_moved_before_much_is_counted_live(rows: int, elapsed_s: float, every_s: float) -> None:
    again_s = upkeep.next_roll_s(rows, elapsed_s, every_s)
    if math.isinf(again_s):
        assert rows * every_s <= limits.ROLLUP_LIVE_ROWS * elapsed_s * 1.001 or not rows
    else:
        assert limits.ROLLUP_EVERY_MIN_S <= again_s <= every_s
        assert again_s == limits.ROLLUP_EVERY_MIN_S or rows * again_s <= limits.ROLLUP_LIVE_ROWS * elapsed_s * 1.001


def test_a_rollup_stays_behind_by_as_much_as_is_little() -> None:
    assert upkeep.settle_s(math.inf) == limits.ROLLUP_SETTLE_S
    assert upkeep.settle_s(limits.ROLLUP_SETTLE_MIN_S / 2) == limits.ROLLUP_SETTLE_MIN_S
    assert upkeep.settle_s(3.0) == 3.0


def test_ingest_has_as_long_as_a_step_took() -> None:
    assert upkeep.pause_s(0.2) == 0.2
    assert upkeep.pause_s(0.001) == limits.MAINTAIN_PAUSE_S


def test_spans_are_said_as_people_do() -> None:
    assert "30 min" in str(upkeep.held(1_800, 0, hot_days=0.01))
