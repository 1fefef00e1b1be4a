"""coord.slot and coord.percentile_of in Python: what the database's answers are compared with.

Histograms whose counts add: which slot a time belongs to, and the percentile of many slots.

Eight slots to a doubling, from 1 ms to 42 days.  A slot stands for its (geometric) middle, so a percentile is at
most ``2 ** (1/16) - 1``, 4.5 %, from the time that stands at its rank; below 1 ms it is at most half a
millisecond off.  Counts of two histograms add up to the histogram of both, which averages and
percentiles themselves do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

PER_DOUBLING: Final = 8
LAST: Final = 255
"""Holds everything beyond 0.001 · 2^(254/8) s, 42 days."""

ERROR: Final = 2 ** (1 / (2 * PER_DOUBLING)) - 1
"""Relative, at most, between 1 ms and 42 days: 0.0443."""

_FIRST_S: Final = 0.001
_BEYOND_S: Final = 1e7
_BORDER: Final = 1e-6
"""Of a slot: a time on a border is in one slot, whatever a machine's logarithm says of its last bit."""


def slot(seconds: float) -> int:
    """The slot, 0 to 255, of a time."""
    if seconds <= _FIRST_S:
        return 0
    if not seconds <= _BEYOND_S:
        return LAST
    return min(LAST, math.ceil(PER_DOUBLING * math.log(seconds * 1000) / math.log(2) - _BORDER))


def seconds(slot: int) -> float:
    """The time that a slot stands for."""
    return _FIRST_S / 2 if slot <= 0 else float(_FIRST_S * 2 ** ((slot - 0.5) / PER_DOUBLING))


def percentile(counts: Mapping[int, int], fraction: float) -> float | None:
    """The time at rank ``ceil(fraction · n)`` of what `counts` (slot → how many) counts; None: it counts nothing."""
    total = sum(counts.values())
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction is from 0 to 1, not {fraction}")
    if total == 0:
        return None
    wanted, reached = max(1, math.ceil(fraction * total)), 0
    for at in sorted(counts):
        reached += counts[at]
        if reached >= wanted:
            return seconds(at)
    raise AssertionError("the ranks end with the total")
