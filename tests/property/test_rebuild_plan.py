"""How a history is cut: every sequence is in one slice, in order, with every stretch that may hold it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from coord.core import rebuild
from coord.core.rebuild import FOREVER, Stretch

T0 = datetime(2026, 1, 1, tzinfo=UTC)

stretches = st.builds(
    lambda epoch, first, length, rows, minute, cold: Stretch(
        epoch=epoch, first=first, last=first + length, rows=rows, since=T0 + timedelta(minutes=minute),
        until=T0 + timedelta(minutes=minute + 10), file=f"f{first}" if cold else None,
    ),
    st.integers(1, 3), st.integers(0, 200), st.integers(0, 60), st.integers(0, 50), st.integers(0, 99), st.booleans(),
)  # fmt: skip


@given(st.lists(stretches, max_size=30), st.tuples(st.integers(0, 3), st.integers(0, 250)), st.integers(1, 80))
def test_every_sequence_is_in_one_slice(found: list[Stretch], after: tuple[int, int], rows_max: int) -> None:
    slices = rebuild.plan(found, after=after, rows_max=rows_max)
    places = [((one.epoch, one.first), (one.epoch, one.last)) for one in slices]
    assert all(first <= last for first, last in places)
    assert all(before[1] < behind[0] for before, behind in itertools.pairwise(places))
    for one in found:
        for seq in range(one.first, one.last + 1):
            mine = [s for s in slices if s.epoch == one.epoch and s.first <= seq <= s.last]
            if not one.rows or (one.epoch, seq) <= after:
                assert len(mine) <= 1
                continue
            (only,) = mine
            if one.file is None:
                assert only.since is not None and only.until is not None  # noqa: PT018 - one thing
                assert only.since <= one.since < one.until <= only.until


@given(st.lists(stretches, max_size=30), st.integers(1, 80))
def test_nothing_is_read_beyond_the_bound_but_what_cannot_be_cut(found: list[Stretch], rows_max: int) -> None:
    for one in rebuild.plan(found, rows_max=rows_max):
        assert one.rows <= rows_max or one.first == one.last


places = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), min_size=4, max_size=4)


@given(places, places)
def test_ranges_hold_what_lies_between(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    above = [min(pair) for pair in zip(one, other, strict=True)]
    upto = [max(pair) for pair in zip(one, other, strict=True)]
    found = {r.epoch: r for r in rebuild.ranges(above, upto)}
    assert list(found) == sorted(found)
    for partition in range(4):
        for epoch in range(1, 5):
            for seq in (0, 1, 7, 20, 10**12):
                lies = above[partition] < (epoch, seq) <= upto[partition]
                range_ = found.get(epoch)
                named = range_ is not None and range_.above[partition] < seq <= range_.upto[partition]
                assert named == lies
    assert FOREVER > 10**12
