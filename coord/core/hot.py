"""The most frequent of many, in bounded memory: a space-saving sketch that forgets.

Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams" (2005): so many
names are counted; one that is not among them takes the place of the least counted, and inherits its count, which is
remembered as what its own may be too large by.  Counts halve every `half_life_s`: what was asked for often an hour ago
gives way to what is asked for now.  In these decayed weights, of all that was offered::

    count - error <= true weight <= count        whatever weighs more than total / capacity is there

Pure: time and the caller's names are arguments.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import msgspec

NameT = TypeVar("NameT", bound=Hashable)

_GROWN_MAX: Final = 2.0**60
"""Instead of all counts shrinking all the time, what is added grows; from here on all are divided by it."""


class Hot(msgspec.Struct, Generic[NameT], frozen=True):
    """One name, as it is counted."""

    name: NameT
    count: float
    """Offers, each half as much with every half life that has passed since: never less than there were."""
    error: float
    """By how much that may be too large."""


class HotNames(Generic[NameT]):
    """See the module."""

    def __init__(self, capacity: int, half_life_s: float) -> None:
        """`capacity`: names that are counted; `half_life_s`: may be infinite."""
        assert capacity > 0
        assert half_life_s > 0
        self.capacity = capacity
        self._half_life_s = half_life_s
        self._counts: dict[NameT, list[float]] = {}
        """Name → count and error, both as large as what is added has grown to."""
        self._least: list[tuple[float, int, NameT]] = []
        """A heap of counts as they were: what has been counted since is found out when its turn comes."""
        self._numbers = itertools.count()
        self._total = 0.0
        self._since: float | None = None

    def __len__(self) -> int:
        return len(self._counts)

    def offer(self, name: NameT, now: float, weight: float = 1.0) -> None:
        """`name` was seen, `weight` times; `now` in seconds of any clock, earlier than before counts as before."""
        added = weight * self._grown(now)
        self._total += added
        known = self._counts.get(name)
        if known is not None:
            known[0] += added
            return
        inherited = self._make_room() if len(self._counts) >= self.capacity else 0.0
        self._counts[name] = [inherited + added, inherited]
        heapq.heappush(self._least, (inherited + added, next(self._numbers), name))

    def top(self, now: float, most: int | None = None) -> list[Hot[NameT]]:
        """The most frequent first; `most`: so many at most."""
        grown = self._grown(now)
        found = heapq.nlargest(
            len(self._counts) if most is None else most, self._counts.items(), key=lambda item: item[1][0]
        )
        return [Hot(name, count / grown, error / grown) for name, (count, error) in found]

    def count(self, name: NameT, now: float) -> float:
        """Of one name; 0: it is not among the frequent."""
        known = self._counts.get(name)
        return 0.0 if known is None else known[0] / self._grown(now)

    def total(self, now: float) -> float:
        """Of all that was offered."""
        return self._total / self._grown(now)

    def _make_room(self) -> float:
        """Forget the least counted; its count."""
        while True:
            count, number, name = self._least[0]
            known = self._counts[name]
            if known[0] <= count:
                heapq.heappop(self._least)
                del self._counts[name]
                return count
            heapq.heapreplace(self._least, (known[0], number, name))

    def _grown(self, now: float) -> float:
        """What one offer adds now."""
        if self._since is None:
            self._since = now
        exponent = max(0.0, now - self._since) / self._half_life_s
        if exponent > math.log2(_GROWN_MAX):
            self._shrink(2.0 ** -min(exponent, 1_000.0))
            self._since = now
            return 1.0
        return float(2.0**exponent)

    def _shrink(self, by: float) -> None:
        self._total *= by
        for known in self._counts.values():
            known[0] *= by
            known[1] *= by
        self._least = [(known[0], number, name) for number, (name, known) in enumerate(self._counts.items())]
        self._numbers = itertools.count(len(self._least))
        heapq.heapify(self._least)
