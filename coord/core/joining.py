"""Which waiting batches go into one transaction, and when the next one begins.

A transaction costs about the same whether it holds two rows or two hundred, so partitions of
a process share them.  Two decisions, both pure:

* *how many*: as many as wait, first come first served, up to a number of rows and bytes;
* *when*: at once after a pause, but while transactions follow each other each begins at least
  `gap_s` after the one before, and up to four times as long after it while rows come so slowly that
  fewer than `rows_wanted` would share it, but not more than twice where waiting brings little company
  (`_COMPANY`).  What arrives in the gap rides along.  A crowd (`rows_enough`) does not wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_RATE_S: Final = 0.25
"""Over how long the rate of rows is taken."""

_QUIET: Final = 2.0
"""How many gaps are waited where few rows come;"""
_BUSY: Final = 4.0
"""and how many where at least `_COMPANY` of the rows that are wanted come within that."""
_COMPANY: Final = 0.5


def how_many(waiting: Iterable[tuple[int, int]], *, rows_max: int, bytes_max: int) -> int:
    """How many of `waiting` (rows, bytes; oldest first) one transaction takes: at least one, if there is one."""
    taken = rows = size = 0
    for rows_of_one, bytes_of_one in waiting:
        rows += rows_of_one
        size += bytes_of_one
        if taken and (rows > rows_max or size > bytes_max):
            break
        taken += 1
    return taken


def share(total: int, partitions: int, *, least: int, most: int) -> int:
    """How much of `total` one batch may hold while `partitions` have two each: one open, one being written."""
    return max(least, min(most, total // (2 * max(1, partitions))))


class Pace:
    """When the next transaction may begin; seconds of one monotonic clock."""

    def __init__(self, gap_s: float, rows_enough: int, rows_wanted: int = 0) -> None:
        """`gap_s`: 0 for none at all.  `rows_wanted`: 0 if one gap is always enough."""
        self._gap_s = gap_s
        self._rows_enough = rows_enough
        self._rows_wanted = rows_wanted
        self._began_at = float("-inf")
        self._rows_per_s = 0.0

    def wait_s(self, now: float, rows: int) -> float:
        """How long a transaction waits that could begin now with `rows`; 0: not at all."""
        if rows >= self._rows_enough:
            return 0.0
        return max(0.0, self._began_at + self._gap() - now)

    @property
    def is_calm(self) -> bool:
        """Whether so little comes that transactions wait longer than the gap for company."""
        return self._gap() > self._gap_s

    def _gap(self) -> float:
        """From the last transaction to the next."""
        wanted_s = self._rows_wanted / self._rows_per_s if self._rows_per_s else self._rows_wanted * _RATE_S
        together = self._rows_per_s * _BUSY * self._gap_s >= _COMPANY * self._rows_wanted
        return min(max(self._gap_s, wanted_s), (_BUSY if together else _QUIET) * self._gap_s)

    def begin(self, now: float, rows: int) -> None:
        """Note that one begins, with `rows`."""
        elapsed_s = now - self._began_at
        if elapsed_s > 0:  # two lanes may begin in one moment: one is enough for a rate
            share = min(1.0, elapsed_s / _RATE_S)
            self._rows_per_s += share * (rows / elapsed_s - self._rows_per_s)
        self._began_at = now
