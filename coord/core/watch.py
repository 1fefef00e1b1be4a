"""What deciders may ask about the world outside the log: who is there, what they use, how their tasks fare.

It is `coord.core.deciding.Presence` and more.  What is answered is this process's impression and
may lead only to facts that are stated once: whoever comes later folds the fact.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec


class Fare(msgspec.Struct):
    """Tasks of one capability, in one partition or in all."""

    queued: int = 0
    again: int = 0
    """Of those: somebody had claimed it before.  The broker delivers it again, and counts it as pending no more."""
    claimed: int = 0
    waiting: int = 0
    """For the next attempt."""
    completed: int = 0
    """Since whenever: only differences mean anything, like those below."""
    failed: int = 0
    """Executions."""
    rejected: int = 0
    unplaced: int = 0
    """Of those queued: nobody is eligible by their placement."""

    def add(self, other: Fare) -> None:
        """Sum up."""
        self.queued += other.queued
        self.again += other.again
        self.claimed += other.claimed
        self.waiting += other.waiting
        self.completed += other.completed
        self.failed += other.failed
        self.rejected += other.rejected
        self.unplaced += other.unplaced

    @property
    def depth(self) -> int:
        """What waits to be taken."""
        return self.queued + self.waiting


NO_FARE: Final = Fare()


class Usage(msgspec.Struct, frozen=True):
    """What an agent uses, all of its instances and all partitions together."""

    inflight: int = 0
    facts_per_s: float = 0.0
    memory_mib: float = 0.0
    """Of its largest instance."""


class Barred(msgspec.Struct, frozen=True):
    """That an agent is quarantined."""

    quota: str = ""
    """The one it broke."""
    since: float = 0.0
    """The broker's clock, Unix seconds."""


class Watch(abc.ABC):
    """What a decider may ask about the world outside the log; `coord.core.deciding.Presence`, and more."""

    @abc.abstractmethod
    def lives(self, tenant: str, agent: str, instance: str) -> bool:
        """Whether that instance may be there: doubt is True."""

    @abc.abstractmethod
    def state(self, tenant: str, agent: str, instance: str) -> str:
        """alive, suspect, gone; or unknown: never heard of, and it would have had the time to say something."""

    def heard(self, tenant: str, agent: str, instance: str) -> bool:  # noqa: ARG002
        """Whether anything was ever heard of it here; False: it may beat rarely, and can be asked."""
        return True

    @property
    def doubts(self) -> bool:
        """Whether this process may have missed what was said: who is silent now may well be there."""
        return False

    @property
    def barred(self) -> Mapping[tuple[str, str], Barred]:
        """(tenant, agent) → of those that are quarantined, why and since when."""
        return {}

    def at_odds(self, tenant: str, agent: str, *, quarantined: bool) -> bool:  # noqa: ARG002
        """Whether an instance of it that is there says otherwise of itself: it was told, and did not hear it."""
        return False

    def resting(self) -> Collection[tuple[str, str]]:
        """(tenant, agent) of whom an instance says that it is quarantined."""
        return ()

    @property
    def news(self) -> object:
        """Equal to what it was before where no `state` can have changed since; None: look for yourself."""
        return None

    @abc.abstractmethod
    def fares(self) -> Iterable[tuple[tuple[str, str], Fare]]:
        """(tenant, capability) → how its tasks fare, all partitions together."""

    @abc.abstractmethod
    def usage(self, tenant: str, agent: str) -> Usage:
        """What that agent uses."""

    def usage_of(self, tenant: str, agent: str, instances: Collection[str]) -> Usage:  # noqa: ARG002
        """What these of its instances use; the facts of one cannot be told from another's, and are 0."""
        return Usage()
