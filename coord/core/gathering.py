"""When the partitions of a stream are read together, by one consumer, and when each by its own.

A process that has nearly all partitions to itself pays for sixteen filters where it could
have one read of the log.  So it gathers them, and parts them again for any trouble::

              alone, enough partitions read, near each other, not cooling
    APART ─────────────────────────────────────────────────────────────────▶ GATHERED ─┐ newcomers join
      ▲                                                                        │  ▲     │ (gathered anew)
      └── not alone · too few left · whoever reads for all says it is broken ──┘  └─────┘

It is only a matter of cost.  Who owns a partition is said by the pin of its own consumer,
which a gathered partition keeps, and in the end by the guard of whatever it writes.

Pure: the edge says who reads and where, this module says what to do.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from coord import limits


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When it pays."""

    enough: int = limits.GATHER_PARTITIONS_MIN
    """Partitions that one consumer has to replace."""
    near_max: int = limits.GATHER_NEAR_MAX
    """Sequences that a partition may be behind the furthest: they are read once more."""
    patience_s: float = limits.GATHER_PATIENCE_S
    """How long the last partitions are waited for, once there are enough."""
    pause_s: float = limits.GATHER_PAUSE_S
    """Between two gatherings; after trouble twice as long each time,"""
    pause_max_s: float = limits.GATHER_PAUSE_MAX_S
    """up to this."""


class Place(msgspec.Struct, frozen=True):
    """Where the reader of one partition is."""

    position: int | None
    """Everything of its partition up to this sequence has reached it; None: it cannot be gathered now."""
    gathered: bool = False


class Word(enum.Enum):
    """What to do."""

    STAY = "stay"
    PART = "part"


class Gathering:
    """Judges one stream's partitions in one process.  Times are seconds of one monotonic clock."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._alone = False
        self._not_before = float("-inf")
        self._pause_s = self.policy.pause_s
        self._gathered_at = float("-inf")
        self._enough_since: float | None = None

    def alone(self, alone: bool, now: float) -> None:  # noqa: FBT001 - the state itself
        """Whether nobody else shares the partitions; somebody who came and went may come again."""
        if self._alone and not alone:
            self._not_before = max(self._not_before, now + self.policy.pause_s)
        self._alone = alone

    def gathered(self, now: float) -> None:
        """They are read together from now on."""
        self._gathered_at = now
        self._enough_since = None
        self._not_before = now + self.policy.pause_s

    def troubled(self, now: float) -> None:
        """Reading together has failed, or a partition has left by itself."""
        quiet = now - self._gathered_at > self.policy.pause_max_s
        self._pause_s = self.policy.pause_s if quiet else min(2 * self._pause_s, self.policy.pause_max_s)
        self._not_before = max(self._not_before, now + self._pause_s)
        self._enough_since = None

    def judge(self, places: Sequence[Place], now: float) -> Word | frozenset[int]:
        """The slots that are to be read together from now on, or whether all is to stay or to end."""
        together = frozenset(slot for slot, place in enumerate(places) if place.gathered)
        if together and (not self._alone or len(together) < self.policy.enough):
            return Word.PART
        if not self.may(now):
            return Word.STAY
        near = self._near(places)
        if len(near) < self.policy.enough or near <= together:
            self._enough_since = None
            return Word.STAY
        if self._enough_since is None:
            self._enough_since = now
        if len(near) < len(places) and now - self._enough_since < self.policy.patience_s:
            return Word.STAY
        return near

    def may(self, now: float) -> bool:
        """Whether only the partitions are waited for."""
        return self._alone and now >= self._not_before

    def due_in(self, now: float) -> float | None:
        """In how many seconds `judge` may say something else of the same places; None: never."""
        if not self._alone:
            return None
        if now < self._not_before:
            return self._not_before - now
        if self._enough_since is not None:
            return max(0.0, self._enough_since + self.policy.patience_s - now)
        return None

    def _near(self, places: Sequence[Place]) -> frozenset[int]:
        positions = {slot: place.position for slot, place in enumerate(places) if place.position is not None}
        if not positions:
            return frozenset()
        furthest = max(positions.values())
        return frozenset(slot for slot, at in positions.items() if furthest - at <= self.policy.near_max)
