"""What an edition's rollups can live with."""

from __future__ import annotations

import pytest

from coord.store.config import AgesConfig, ArchiveConfig, EditionName
from coord.store.editions import Edition, too_short


def edition(name: EditionName) -> Edition:
    return Edition(name=name, postgres="17.2", timescaledb=None, direct_compress=False, commit_timestamps=False)


def dropped(days: float | None) -> ArchiveConfig:
    return ArchiveConfig(url="/cold", after_days=0.5, drop_days=days, keep_days=None)


@pytest.mark.parametrize(
    ("ages", "archive", "why"),
    [
        (AgesConfig(), None, None),
        (AgesConfig(), dropped(None), None),
        (AgesConfig(hot_days=1), dropped(4.5), None),
        (AgesConfig(hot_days=1), dropped(4), "archive.drop_days (4) must exceed 4 and ages.hot_days (1)"),
        (AgesConfig(hot_days=7), dropped(6), "archive.drop_days (6) must exceed 4 and ages.hot_days (7)"),
        (AgesConfig(hot_days=0.5, minutes_days=0.9), None, "ages.minutes_days (0.9)"),
        (AgesConfig(hot_days=1, minutes_days=1, hours_days=3), None, "ages.hours_days (3)"),
    ],
)
def test_ages_that_leave_nothing_to_count_again(
    ages: AgesConfig, archive: ArchiveConfig | None, why: str | None
) -> None:
    found = too_short(edition("community"), ages, archive)
    assert (found is None) is (why is None)
    assert (why or "") in (found or "")
    assert too_short(edition("apache"), ages, archive) is None
    assert too_short(edition("plain"), ages, archive) is None
