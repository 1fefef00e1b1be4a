"""When to stop asking something outside that does not answer, and when to ask again.

A breaker stands in front of one class of what is outside: the database as the projector
writes it, the broker's API, one service.  Who wants to call is admitted or told how long to
wait; who was admitted says how it went.

::

                        failures_max failures in a row
       +--------+ -----------------------------------------> +------+
       | closed |                                            | open | <-----------+
       +--------+ <---------------- success ---+             +------+             |
         calls go through                      |                 | its time is    | failure:
                                               |                 v over           | twice as long
                                         +-----------+ <---------+                |
                                         | half open | ---------------------------+
                                         +-----------+
                                           probes_max calls go through, the others are told to wait

What happened to a call is believed only if the breaker is in the state that admitted it: a
slow call that fails after the breaker was closed again says nothing about now.  A probe that
was cancelled gives its place back.

Pure: the time and the randomness are arguments.  `coord.runtime.circuit` acts on it.
"""

from __future__ import annotations

import random
from typing import Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core.retry import backoff_s
from coord.errors import SettingsError

State: TypeAlias = Literal["closed", "open", "half_open"]
Event: TypeAlias = Literal["tripped", "due", "success", "failure"]

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    ("closed", "tripped"): "open",
    ("open", "due"): "half_open",
    ("half_open", "success"): "closed",
    ("half_open", "failure"): "open",
}
"""Every change of state; whatever is not listed changes nothing but counts."""


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a breaker opens, and for how long.  Seconds."""

    failures_max: int = limits.CIRCUIT_FAILURES_MAX
    """Failures in a row that open it."""
    open_first_s: float = limits.CIRCUIT_OPEN_FIRST_S
    """How long it is open the first time; doubled after every probe that fails, half of it random,"""
    open_max_s: float = limits.CIRCUIT_OPEN_MAX_S
    """up to this: whatever was away is noticed to be back within that and the time of one probe."""
    probes_max: int = 1
    """Calls that may try at once whether it is back."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if self.failures_max < 1 or self.probes_max < 1:
            raise SettingsError("circuit: failures_max and probes_max are at least 1")
        if not 0 < self.open_first_s <= self.open_max_s:
            raise SettingsError("circuit: 0 < open_first_s <= open_max_s is demanded")


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """One admitted call: hand it back with how it went."""

    generation: int
    probe: bool


class Breaker:
    """See the module."""

    def __init__(self, policy: BreakerPolicy) -> None:
        policy.validate()
        self.policy: Final = policy
        self.state: State = "closed"
        self.failures = 0
        """In a row, while closed."""
        self.generation = 0
        """Changes of state so far."""
        self._opened = 0
        """Times it opened in a row, without being closed in between."""
        self._until = 0.0
        self._probes = 0

    def admit(self, now: float) -> Ticket | float:
        """A ticket, or the seconds after which asking again makes sense."""
        if self.state == "closed":
            return Ticket(self.generation, probe=False)
        if self.state == "open":
            if now < self._until:
                return self._until - now
            self._on("due")
        if self._probes >= self.policy.probes_max:
            return self.policy.open_first_s
        self._probes += 1
        return Ticket(self.generation, probe=True)

    def succeeded(self, ticket: Ticket) -> None:
        """The call was answered; an answer may be a refusal."""
        if ticket.generation != self.generation:
            return
        self.failures = 0
        if self.state == "half_open":
            self._opened = 0
            self._on("success")

    def failed(self, ticket: Ticket, now: float, rng: random.Random) -> None:
        """The call was not answered, or could not be made."""
        if ticket.generation != self.generation:
            return
        if self.state == "half_open":
            self._open("failure", now, rng)
            return
        self.failures += 1
        if self.failures >= self.policy.failures_max:
            self._open("tripped", now, rng)

    def abandoned(self, ticket: Ticket) -> None:
        """The call ended without saying anything about what is outside: cancelled, or refused on our side."""
        if ticket.probe and ticket.generation == self.generation:
            self._probes -= 1

    def _open(self, event: Event, now: float, rng: random.Random) -> None:
        self._opened += 1
        policy = self.policy
        self._until = now + backoff_s(self._opened, rng, first_s=policy.open_first_s, most_s=policy.open_max_s)
        self._on(event)

    def _on(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]
        self.generation += 1
        self.failures = 0
        self._probes = 0
