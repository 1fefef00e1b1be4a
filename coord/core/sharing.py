"""Whose turn it is: the shares of the priorities of a busy worker.

Deficit round robin with one task as the unit, in the smooth order (nginx's): each queue that may
have work earns its share, the one with the most credit is served and pays for all.  With shares
8 : 3 : 1 that gives c c n c c b c n c c n c, not eight of one and then three of the next, so a
priority waits for its turn as short as its share allows.

What a queue without work does not use the others have: it earns nothing while it is left out, and
what it had saved up is gone (`rested`).

Pure: no clock, nothing random.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


class Turns:
    """The credit of each queue; between minus and plus the sum of all shares."""

    def __init__(self, shares: Mapping[str, int]) -> None:
        """`shares`: of each queue, 1 or more, most urgent first (that order decides a draw)."""
        assert shares and min(shares.values()) >= 1, "each queue has a share"  # noqa: PT018 - one thing
        self._shares = dict(shares)
        self._bound = sum(shares.values())
        self._credit = dict.fromkeys(shares, 0)

    @property
    def queues(self) -> tuple[str, ...]:
        """All of them, most urgent first."""
        return tuple(self._shares)

    def next(self, among: Collection[str]) -> str | None:
        """The queue to serve next, of those that may have work; it is charged for.  None: there is none."""
        chosen, total = None, 0
        for queue, share in self._shares.items():
            if queue not in among:
                continue
            total += share
            self._credit[queue] += share
            if chosen is None or self._credit[queue] > self._credit[chosen]:
                chosen = queue
        if chosen is not None:
            self._credit[chosen] -= total
        return chosen

    def plan(self, slots: int, among: Collection[str]) -> dict[str, int]:
        """How many of `slots` free slots go to which queue; all of them, where `among` has any."""
        if len(among) == 1 and slots > 0:
            return dict.fromkeys(among, slots)  # it earns what it pays
        planned: dict[str, int] = {}
        for _ in range(slots):
            queue = self.next(among)
            if queue is None:
                break
            planned[queue] = planned.get(queue, 0) + 1
        return planned

    def rested(self, queue: str, unserved: int) -> None:
        """A queue had no work for `unserved` of its turns: they are not charged, and nothing is saved up."""
        credit = self._credit[queue] + unserved * self._bound
        self._credit[queue] = max(-self._bound, min(0, credit))
