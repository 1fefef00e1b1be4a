"""Does a stream still hold what was projected from it?  A walk along the stream, judged.  Pure.

Two questions about each message on the way:

* is there one?  A sequence that is missing between two others was lost or deleted: coord never
  deletes single messages, and what ages out leaves from the front;
* is it the one that was projected?  The chain of its partition (`coord.core.chain`) leads from
  one anchor to the next, or a message between them is missing, another, or another's.

The edge reads the stream in order and gives each message to `Walk.add`, then calls `finish`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from coord.core import chain

NAMED_MAX: Final = 1_000
"""Gaps and broken segments that are named; more are counted."""


class Point(msgspec.Struct, frozen=True):
    """An anchor, or the checkpoint: a place where a partition's chain is known."""

    seq: int
    messages: int
    digest: int


class Gap(msgspec.Struct, frozen=True):
    """Sequences that are not in the stream, both ends included."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """How many."""
        return self.last - self.first + 1


class Broken(msgspec.Struct, frozen=True):
    """A segment of a partition's chain that the stream does not lead along."""

    partition: int
    after: int
    upto: int
    """The segment's messages lie behind the first and up to the second."""
    expected: int
    found: int
    """How many messages went into the chain, and how many the stream has."""


class Walk:
    """See the module.  `start`: the first sequence that will be given to `add`, if it exists."""

    def __init__(self, points: Mapping[int, Sequence[Point]], start: int) -> None:
        self.gaps: list[Gap] = []
        self.broken: list[Broken] = []
        self.gaps_count = 0
        self.missing = 0
        """Sequences in all gaps."""
        self.broken_count = 0
        self.segments = 0
        """Segments that were checked."""
        self.messages = 0
        self._next = start
        self._chains = {p: _Chain(p, [x for x in known if x.seq + 1 >= start]) for p, known in points.items()}

    def add(self, partition: int | None, seq: int, subject: str, headers: bytes | None, body: bytes) -> None:
        """The next message of the stream, in order; `partition` None: it has none of the sixteen."""
        self._advance(seq - 1)
        self._next = seq + 1
        self.messages += 1
        known = None if partition is None else self._chains.get(partition)
        if known is not None:
            self._judge(known, seq - 1)
            known.extend(seq, subject, headers, body)

    def finish(self, last: int) -> None:
        """The stream was read up to `last`, which may lie behind the last message."""
        self._advance(last)
        for known in self._chains.values():
            self._judge(known, last)

    def _advance(self, last: int) -> None:
        if last < self._next:
            return
        gap = Gap(self._next, last)
        self._next = last + 1
        self.gaps_count += 1
        self.missing += gap.count
        if len(self.gaps) < NAMED_MAX:
            self.gaps.append(gap)

    def _judge(self, known: _Chain, upto: int) -> None:
        """Close the segments that end at or before `upto`."""
        while known.ends_by(upto):
            self.segments += 1
            broken = known.close()
            if broken is None:
                continue
            self.broken_count += 1
            if len(self.broken) < NAMED_MAX:
                self.broken.append(broken)


class _Chain:
    """One partition's segments, one after the other; each begins from what is written down."""

    __slots__ = ("_at", "_digest", "_found", "_partition", "_points")

    def __init__(self, partition: int, points: list[Point]) -> None:
        self._partition = partition
        self._points = sorted(points, key=lambda point: (point.seq, point.messages))
        self._at = 0
        self._begin()

    def _begin(self) -> None:
        self._found = 0
        self._digest = self._points[self._at].digest if self._at < len(self._points) else chain.EMPTY

    def extend(self, seq: int, subject: str, headers: bytes | None, body: bytes) -> None:
        if self._at < len(self._points) and seq > self._points[self._at].seq:
            self._found += 1
            self._digest = chain.extend(self._digest, seq, subject, headers, body)

    def ends_by(self, upto: int) -> bool:
        return self._at + 1 < len(self._points) and self._points[self._at + 1].seq <= upto

    def close(self) -> Broken | None:
        a, b = self._points[self._at], self._points[self._at + 1]
        expected = b.messages - a.messages
        right = (self._digest, self._found) == (b.digest, expected)
        broken = None if right else Broken(self._partition, a.seq, b.seq, expected, self._found)
        self._at += 1
        self._begin()
        return broken
