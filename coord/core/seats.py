"""Who of a capability's idle workers leaves pulls waiting: a few have a seat, the others stand by.

The broker goes through all pulls that wait at a queue for everything that happens there, so what a
task costs would grow with the number of idle workers.  ``QUEUE_SEATS`` of them are enough: they
take what comes, and whoever is away for more than a moment has another one take the seat.

::

                room            passed on, crowd
        new ──────────▶ seated ─────────────────▶ awake
       ▲   │             ▲  ▲                    │  │
       │   │ full        │  └────────────────────┘  │ idle
       │   ▼             │          refused         │
      standing ──────────┘                          │
       ▲ │ work   seat, room                        │
       │ └──▶ new                                   │
       └────────────────────────────────────────────┘

*New* and *awake* workers ask for work without waiting, and the new ones, when there is none, how many pulls wait;
*seated* ones wait; who *stands by* does neither until it is woken.  Nobody counts seats: of more
than enough some leave when they look, by lots, and where too few are taken somebody sits down.  Whoever is
busy and finds nobody who takes its seat offers it again from time to time.  A wake that is lost is made good by
the service, which sees work wait beside free agents.

Pure: time, chance and what was counted are arguments.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from coord import limits

State: TypeAlias = Literal["new", "seated", "awake", "standing"]
Event: TypeAlias = Literal["room", "full", "crowd", "alone", "passed", "refused", "idle", "seat", "work"]

TRANSITIONS: Final[dict[tuple[str, str], State]] = {
    ("new", "room"): "seated",
    ("new", "alone"): "seated",
    ("new", "full"): "standing",
    ("seated", "crowd"): "awake",
    ("seated", "passed"): "awake",
    ("awake", "refused"): "seated",
    ("standing", "refused"): "seated",
    ("new", "refused"): "seated",
    ("awake", "idle"): "standing",
    ("awake", "alone"): "seated",
    ("standing", "seat"): "seated",
    ("standing", "work"): "new",
    ("standing", "room"): "seated",
    ("standing", "alone"): "seated",
}
"""What is not in it changes nothing."""


class Seat:
    """Of one worker at one capability.  All times are monotonic seconds, all draws in [0, 1)."""

    __slots__ = ("_many", "_served", "crowded", "look_at", "state")

    def __init__(self) -> None:
        self.state: State = "new"
        self.crowded = True
        """Somebody may be standing by: it is worth trying to wake them."""
        self._many = False
        """There are more workers than seats, as far as is known: seats are passed on."""
        self.look_at = 0.0
        """When to look again how many wait."""
        self._served = 0

    def _turn(self, event: Event) -> bool:
        """Take a step; whether it was one."""
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            return False
        if after == "standing":
            self.crowded = self._many = True
        if after == "seated":
            self._served = 0
        self.state = after
        return True

    # --- looking -------------------------------------------------------------------------

    def looked(self, waiting: int, now: float, draw: float) -> bool:
        """So many pulls wait, its own included; whether that changed its state.

        Up to `QUEUE_SEATS` all may stay, twice as many or more none, between that by lots, so that who looks at the
        same time does not leave at the same time.  Who stands by sits down where less than half is taken.
        """
        seats = limits.QUEUE_SEATS
        stays = draw * seats >= waiting - seats
        before = self.state
        self.crowded = True
        self._many = waiting >= seats // 2 or before == "standing"
        if before == "standing":
            if waiting < seats // 2:
                self._turn("room")
        elif before == "new":
            self._turn("room" if stays else "full")
        elif before == "seated" and not stays:
            self._turn("crowd")
        self._look_later(now, draw, soon=before == "new" and self._many)
        return self.state != before

    def unanswered(self, now: float, draw: float) -> bool:
        """Nobody says how many wait: whoever knows nothing waits as if it were alone."""
        changed = self.state == "new" and self._turn("alone")
        self._look_later(now, draw, soon=changed)
        return changed

    def _look_later(self, now: float, draw: float, *, soon: bool) -> None:
        if self.state == "standing":
            self.look_at = now + limits.STANDBY_LOOK_S * (0.5 + draw)
        elif soon:  # many begin at the same time, and do not see each other
            self.look_at = now + limits.SEAT_AGAIN_S * (0.5 + draw)
        else:
            self.look_at = now + limits.SEAT_LOOK_S * (0.75 + draw / 2)

    # --- its own work --------------------------------------------------------------------

    def delivered(self, pending: int) -> int:
        """It was given something, and so much more waits: how many others to wake for that.

        None for as few as others on seats are about to be given; if these are away, so is this one soon.  Those on
        seats begin: each wakes its part of what is needed.
        """
        self._served += 1
        more = pending - limits.QUEUE_SEATS // 2
        if more <= 0 or not self.crowded:
            return 0
        if self.state == "seated":
            return min(-(-more // limits.QUEUE_SEATS), limits.WAKES_A_SEAT)
        return min(more, limits.WAKES_A_DELIVERY)

    @property
    def leaves(self) -> bool:
        """Whether its seat is worth offering while it is away."""
        return self.state == "seated" and self._many

    @property
    def had_its_share(self) -> bool:
        """Whether somebody else is to have its seat, though it is back."""
        return self.leaves and self.crowded and self._served >= limits.SEAT_TASKS

    def pass_on(self) -> bool:
        """It offers its seat to whoever stands by; whether it had one."""
        return self._turn("passed")

    def refused(self, *, nobody: bool) -> bool:
        """Nobody took the seat that it offered: it is its own again.  `nobody`: because nobody stands by."""
        if nobody:
            self.crowded = False
        return self._turn("refused")

    def rest(self, now: float, draw: float) -> bool:
        """There is nothing to do; whether it stands by from now on."""
        if not self._turn("idle"):
            return False
        self._look_later(now, draw, soon=False)
        return True

    # --- others' -------------------------------------------------------------------------

    def woken(self, what: str) -> bool:
        """Called for a `seat`, or because there is `work`; whether it comes."""
        return what in ("seat", "work") and self._turn(what)  # type: ignore[arg-type]

    def alone(self) -> bool:
        """It cannot be woken: it waits as if it were alone."""
        self.crowded = self._many = False
        return self._turn("alone")
