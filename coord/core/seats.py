"""Who of a capability's idle workers leaves pulls waiting: some have a seat, the others stand by.

The broker goes through all pulls that wait at a queue for everything that happens there, so what a
task costs would grow with the number of idle workers.  ``QUEUE_SEATS`` of them are enough.

::

                  crowd
        seated ──────────▶ standing
           ▲                  │
           └──────────────────┘
              woken, room, alone

Whoever is *seated* leaves pulls waiting while it is idle, and looks now and then how many wait.  Where
these are a *crowd* (twice the seats) it stands by: it pulls nothing until the service wakes it, or until it
looks and finds *room*.  Workers know nothing of each other, and wake nobody: `coord.core.standers` does.

Pure: time, chance and what was counted are arguments.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from coord import limits

State: TypeAlias = Literal["seated", "standing"]
Event: TypeAlias = Literal["crowd", "woken", "room", "alone"]

TRANSITIONS: Final[dict[tuple[str, str], State]] = {
    ("seated", "crowd"): "standing",
    ("standing", "woken"): "seated",
    ("standing", "room"): "seated",
    ("standing", "alone"): "seated",
}
"""What is not in it changes nothing."""


def crowded(waiting: int, seats: int | None = None) -> bool:
    """Whether so many pulls wait (the asker's included) that whoever asks is to stand by; `seats`: default, ours."""
    return waiting >= (limits.QUEUE_CROWD if seats is None else 2 * seats)


class Seat:
    """Of one worker at one capability.  All times are monotonic seconds, all draws in [0, 1)."""

    __slots__ = ("look_at", "state")

    def __init__(self, now: float, draw: float) -> None:
        self.state: State = "seated"
        self.look_at = now + limits.SEAT_AGAIN_S * (0.5 + draw)
        """When to look again how many wait."""

    @property
    def standing(self) -> bool:
        """Whether it neither waits nor asks, until it is woken."""
        return self.state == "standing"

    def _turn(self, event: Event) -> bool:
        """Take a step; whether it was one."""
        after = TRANSITIONS.get((self.state, event))
        self.state = after or self.state
        return after is not None

    def looked(
        self, waiting: int, now: float, draw: float, *, may_stand: bool = True, seats: int | None = None
    ) -> bool:
        """So many pulls wait; whether that changed its state.

        `may_stand`: it is idle, and can be woken.  `seats`: as many as the service sees to; default, as ours does.
        """
        changed = False
        if self.state == "standing":
            changed = waiting < (limits.QUEUE_SEATS if seats is None else seats) and self._turn("room")
        elif may_stand and crowded(waiting, seats):
            changed = self._turn("crowd")
        self._look_later(now, draw)
        return changed

    def begun(self, now: float, draw: float, *, stands: bool) -> None:
        """It asked before it pulled for the first time: whether it stands by from the start."""
        if stands and self._turn("crowd"):
            self._look_later(now, draw)

    def unanswered(self, now: float, draw: float) -> None:
        """Nobody says how many wait: it goes on as it did."""
        self._look_later(now, draw)

    def woken(self, now: float, draw: float) -> bool:
        """The service wants somebody; whether it comes."""
        if not self._turn("woken"):
            return False
        self.look_at = now + limits.SEAT_AGAIN_S * (0.5 + draw)  # those who were woken may be a crowd together
        return True

    def alone(self) -> bool:
        """It cannot be woken: it waits as if it were alone."""
        return self._turn("alone")

    def _look_later(self, now: float, draw: float) -> None:
        self.look_at = now + (limits.STANDBY_LOOK_S if self.standing else limits.SEAT_LOOK_S) * (0.5 + draw)
