"""When a cron schedule comes next."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from coord.core.cron import next_after, unreadable

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("cron", "after", "then"),
    [
        ("0 0 3 * * *", "2026-11-22T02:00:00Z", "2026-11-23T02:00:00Z"),  # not again at the second it fired
        ("0 0 3 * * *", "2026-11-22T01:59:59.5Z", "2026-11-22T02:00:00Z"),
        ("*/20 5-10/5,59 * * * ?", "2026-11-22T10:05:40Z", "2026-11-22T10:10:00Z"),
        ("30 0 0 1 JAN *", "2026-11-22T00:00:00Z", "2026-12-31T23:00:30Z"),
        ("0 0 12 * * Mon-fri", "2026-11-20T11:00:00Z", "2026-11-23T11:00:00Z"),
        ("0 0 12 13 * fri", "2026-11-07T00:00:00Z", "2026-11-13T11:00:00Z"),  # either kind of days will do
        ("0 0 12 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T11:00:00Z"),
        ("0 30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),  # the 29th has no half past two
        ("0 30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),  # and the 25th has two
        ("0 0 0 31 2 *", "2026-01-01T00:00:00Z", None),
        ("0 0 24 * * *", "2026-01-01T00:00:00Z", None),
    ],
)
def test_the_next_time(cron: str, after: str, then: str | None) -> None:
    found = next_after(cron, BERLIN, datetime.fromisoformat(after))
    assert found == (None if then is None else datetime.fromisoformat(then))
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    ("cron", "field"),
    [
        ("0 0 3 * * x", "x"),
        ("60 0 3 * * *", "60"),
        ("0 0 3 L * *", "L"),
        ("0 0/5 3 ? * MON-FRI", None),
        ("0 0 3 * * 7", "7"),
    ],
)
def test_a_field_that_is_none_is_named(cron: str, field: str | None) -> None:
    assert unreadable(cron) == field
