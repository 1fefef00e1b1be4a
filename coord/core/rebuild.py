"""In which pieces a history is read that has to come in the order of the log.

The copy of the log is kept by time, and its order is that of sequences.  Both run alike until the broker's
clock jumps: then two stretches of time hold sequences that lie among each other.  So what there is gets
counted in *stretches* (of a table: ten minutes; of an archive: a file), and is read in *slices*, ranges of
sequences, each from every stretch that may hold some of it.

Pure: how many there are is counted by the edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, TypeAlias

import msgspec

Place: TypeAlias = tuple[int, int]
"""(epoch, sequence): everything up to there, of one partition."""

FOREVER: Final = 2**63 - 1
"""Above every sequence."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one epoch that are kept together."""

    epoch: int
    first: int
    """Sequences, both inclusive."""
    last: int
    rows: int
    since: datetime
    """Broker's clock, inclusive,"""
    until: datetime
    """and exclusive."""
    file: str | None = None
    """Which of the archive; None: it is in the table."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """A range of sequences of one epoch, and where its facts are."""

    epoch: int
    first: int
    last: int
    rows: int
    """About so many."""
    since: datetime | None = None
    """In the table: broker's clock, inclusive; None: none is there."""
    until: datetime | None = None
    """Exclusive."""


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Of one epoch, per partition: behind which sequence, and up to which."""

    epoch: int
    above: tuple[int, ...]
    upto: tuple[int, ...]

    @property
    def is_empty(self) -> bool:
        """Whether no partition has anything in it."""
        return all(low >= high for low, high in zip(self.above, self.upto, strict=True))


def ranges(above: Sequence[Place], upto: Sequence[Place]) -> list[Range]:
    """Per epoch, in order, what lies between two places of each partition.

    A partition enters an epoch when its checkpoint does, so in one epoch it may have all, some or nothing.
    """
    assert len(above) == len(upto)
    first = min((epoch for epoch, _ in above), default=1)
    last = max((epoch for epoch, _ in upto), default=0)
    found = (
        Range(
            epoch=epoch,
            above=tuple(seq if e == epoch else -1 if e < epoch else FOREVER for e, seq in above),
            upto=tuple(seq if e == epoch else -1 if e < epoch else FOREVER for e, seq in upto),
        )
        for epoch in range(max(first, 1), last + 1)
    )
    return [one for one in found if not one.is_empty]


def plan(stretches: Iterable[Stretch], *, rows_max: int, after: Place = (0, 0)) -> list[Slice]:
    """Slices of about `rows_max` rows, in the order of the log, of everything behind `after`.

    Each sequence is in one slice, and a slice names every stretch that may hold one of its sequences.
    """
    assert rows_max > 0
    slices: list[Slice] = []
    by_epoch: dict[int, list[Stretch]] = {}
    for one in stretches:
        if one.rows and (one.epoch, one.last) > after:
            by_epoch.setdefault(one.epoch, []).append(one)
    for epoch in sorted(by_epoch):
        above = after[1] if epoch == after[0] else -1
        joined: list[Stretch] = []
        for group in _entangled(by_epoch[epoch]):
            if joined and _rows(joined) + _rows(group) > rows_max:
                slices += _cut(joined, above, rows_max)
                joined = []
            joined += group
        slices += _cut(joined, above, rows_max)
    return slices


def _entangled(stretches: list[Stretch]) -> Iterator[list[Stretch]]:
    """Those whose sequences lie among each other, together; in order."""
    group: list[Stretch] = []
    last = -1
    for one in sorted(stretches, key=lambda s: (s.first, s.last)):
        if group and one.first > last:
            yield group
            group = []
        group.append(one)
        last = max(last, one.last)
    if group:
        yield group


def _rows(group: list[Stretch]) -> int:
    return sum(one.rows for one in group)


def _cut(group: list[Stretch], above: int, rows_max: int) -> Iterator[Slice]:
    """One slice, or as many as its rows want: how they lie among its sequences is not known, so evenly."""
    first = max(min(one.first for one in group), above + 1)
    last = max(one.last for one in group)
    rows = _rows(group)
    pieces = max(1, min(-(-rows // rows_max), last - first + 1))
    for number in range(pieces):
        low = first + (last - first + 1) * number // pieces
        high = first + (last - first + 1) * (number + 1) // pieces - 1
        mine = [one for one in group if one.first <= high and one.last >= low]
        if not mine:
            continue
        table = [one for one in mine if one.file is None]
        yield Slice(
            epoch=group[0].epoch,
            first=low,
            last=high,
            rows=rows // pieces,
            since=min((one.since for one in table), default=None),
            until=max((one.until for one in table), default=None),
        )
