"""A rate that is kept: so many a second, a second's worth at once at most.

Pure: the caller's monotonic clock is an argument.
"""

from __future__ import annotations


class Rate:
    """A bucket of one second's worth, filled evenly.  It may be overdrawn by what cannot wait."""

    def __init__(self, per_s: float, now: float) -> None:
        """`per_s`: above 0."""
        self.per_s = per_s
        self._most = max(1.0, per_s)
        self._left = self._most
        self._at = now

    def take(self, count: float, now: float) -> float:
        """Spend `count`; returns the seconds to wait until that is within the rate, 0 where it is now."""
        self._fill(now)
        self._left -= count
        return max(0.0, -self._left / self.per_s)

    def wait_s(self, now: float) -> float:
        """Seconds until there is room for one more; 0: there is."""
        self._fill(now)
        return max(0.0, (1.0 - self._left) / self.per_s)

    def room(self, now: float) -> float:
        """What may be spent now without overdrawing; below 0 where it is overdrawn."""
        self._fill(now)
        return self._left

    def _fill(self, now: float) -> None:
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self.per_s)
        self._at = max(self._at, now)
