"""How old what a read replica shows is at most, without a clock of another machine.

Whoever reads keeps pairs: *when* it asked the primary, and the position up to which its write-ahead log
was durable then.  A replica that has replayed such a position shows everything the primary had made
durable at that moment, whatever happened since: it is at most as old as the question.

    asked  t1 → 100      t2 → 180      t3 → 240
    replica has replayed 200:   it shows all of t2, so it is now - t2 old at most

The answer errs on one side only: a claimed age is never below the true one.  An idle primary has one
position for all questions, so its replica is as fresh as the last one; a replica that is cut off reaches no new
position, and grows older with every second, though it believes itself that it has everything it received.

A commit that does not wait for its log (``synchronous_commit=off``, as the projector's) is visible before it is
durable: `lead_s`, three times the server's ``wal_writer_delay``, is added for it.

Pure: times are arguments, of one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from typing import Final

SAMPLES_MAX: Final = 64
"""Questions that are remembered.  The oldest is forgotten first: an answer is older then than it needs to be."""


class Staleness:
    """What is known of one replica."""

    def __init__(self, *, lead_s: float = 0.0) -> None:
        self.lead_s = lead_s
        self._asked: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)
        """When the primary was asked, and its position; both grow."""
        self._shown: float | None = None
        """The replica shows everything from before this moment."""
        self._replayed = 0

    @property
    def is_known(self) -> bool:
        """Whether there is an age to claim."""
        return self._shown is not None

    def primary(self, asked_at: float, position: int) -> None:
        """The primary's durable position, asked for at `asked_at`: before the question left."""
        if self._asked and position < self._asked[-1][1]:
            self.forget()  # another primary, that never had what this one's replica may show
        self._asked.append((asked_at, position))

    def replica(self, position: int) -> bool:
        """What the replica has replayed; False: less than before, so it is not what it was.

        One that was restarted shows what it had kept, and what is known of it begins anew.
        """
        went_on = position >= self._replayed
        if not went_on:
            self._shown = None
        self._replayed = position
        while self._asked and self._asked[0][1] <= position:
            self._shown = self._asked[0][0]
            if len(self._asked) == 1:
                break  # for a replica that is restarted
            self._asked.popleft()
        return went_on

    def another_replica(self) -> None:
        """Another server stands where the replica stood: nothing is known of what it shows."""
        self._shown = None
        self._replayed = 0

    def forget(self) -> None:
        """Know nothing: another server may stand where the replica or the primary stood."""
        self._asked.clear()
        self.another_replica()

    def age_s(self, now: float) -> float | None:
        """How old at most what the replica shows is; None: nothing is known."""
        return None if self._shown is None else now - self._shown + self.lead_s
