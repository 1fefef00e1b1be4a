"""What a simulation has for tasks that are placed: who is there, as a process heard it, and what may be demanded.

Nobody beats in a simulation, since what silence does is one of its faults: a process is told who came,
went and came back, each time after a delay of its own, and two of them know different things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from coord.core.presence import PresenceTable
from coord.wire.presence import Heartbeat, Quotas, Registration

if TYPE_CHECKING:
    from coord.testing.fleet import Member

Holder = tuple[str, str, str]
"""(tenant, agent, instance)."""

HOME: Final = "eu"
"""The region of one worker alone: what demands it waits for that one."""

CHIEF: Final = "w0"
"""The worker to whom handoffs escalate."""

DEMANDS: Final[tuple[dict[str, Any], ...]] = (
    {"strategy": "resources"},
    {"strategy": "round_robin", "wait_s": 1.0},
    {"strategy": "least_connections", "offers_max": 1},
    {"strategy": "response_time", "accept_ms": 2_000},
    {"strategy": "label", "values": [HOME], "wait_s": 0.0},
    {"strategy": "label", "values": [HOME], "strict": True},
    {"strategy": "agent", "agent": "w1"},
    {"strategy": "resources", "require": {"region": HOME}},
    {"strategy": "a plain client's, that nobody knows"},
)
"""Placements that clients ask for."""


class Sight(PresenceTable):
    """Who is there, of all that one process that decides has been told."""

    def __init__(self, late_s: float = 0.0) -> None:
        super().__init__(0.0)
        self.dead: set[Holder] = set()
        """Instances that it knows to be gone."""
        self._told = 0
        """So often it was told of somebody's end, which the table knows only of those it has heard."""
        self.late_s = late_s
        """It hears so late how tasks fare,"""
        self.counts_from: float | None = None
        """and what ended since then; None: nothing yet."""

    def lives(self, tenant: str, agent: str, instance: str) -> bool:
        """Whoever it has not heard of may be alive."""
        return (tenant, agent, instance) not in self.dead

    @property
    def doubts(self) -> bool:
        """Never: what it does not know is told later, and until then everybody lives."""
        return False

    @property
    def news(self) -> object:
        """See `Watch`."""
        return super().news, self._told

    def comes(self, member: Member, now: float) -> None:
        """A member of the fleet is heard, for the first time or again."""
        self.dead.discard(member.holder)
        self.beat(*member.holder, beat_of(member), now)

    def goes(self, holder: Holder, now: float) -> None:
        """An instance is said to be no more."""
        self.dead.add(holder)
        self._told += 1
        if self.get(*holder) is not None:
            self.beat(*holder, _BYE, now)


_BYE: Final = msgspec.json.encode(Heartbeat(bye=True))


def beat_of(member: Member) -> bytes:
    """What a member says of itself."""
    return msgspec.json.encode(Heartbeat(load=member.load, about=about(member), quarantined=member.is_quarantined))


def about(member: Member) -> Registration:
    """What it can do, and who is above it."""
    return Registration(
        instance=member.instance,
        capabilities=member.slots,
        labels={"region": member.region},
        coordinator=None if member.name == CHIEF else CHIEF,
        quotas=Quotas(inflight=1) if member.is_greedy else None,
    )
