"""What is asked for most, how old it is when it is served, and what evicts most.

A hit has no time for any of it: `Counting` hands over one in about `limits.CACHE_SAMPLED_HITS`, drawn so that no
pattern of reading hides from it, with as much weight as there were hits.  Misses come one by one: each costs a load.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from coord import limits
from coord.cache.memory import MemoryCache
from coord.core.hot import HotNames
from coord.telemetry.metrics import Metrics


class Sampling:
    """Of one cache."""

    def __init__(self, l1: MemoryCache, metrics: Metrics, monotonic: Callable[[], float], tier: str) -> None:
        self.keys: HotNames[Hashable] = HotNames(limits.CACHE_HOT_KEYS, limits.CACHE_HOT_HALF_LIFE_S)
        """Of reads, hits and misses."""
        self.evictors: HotNames[str] = HotNames(limits.CACHE_HOT_TAGS, limits.CACHE_HOT_HALF_LIFE_S)
        """Of entries that left: the tags that took them along; a whole partition's name where nothing is named."""
        self.missed_too: Callable[[Hashable], None] | None = None
        """Told the key of every miss, by whoever misses it."""
        self._l1 = l1
        self._monotonic = monotonic
        self._age = metrics.cache_age_seconds.labels(tier=tier)

    def missed(self, key: Hashable) -> None:
        """A read was not answered from memory."""
        self.keys.offer(key, self._monotonic())
        if self.missed_too is not None:
            self.missed_too(key)

    def hit(self, key: Hashable, hits: int) -> None:
        """One of `hits` reads that were."""
        now = self._monotonic()
        self.keys.offer(key, now, hits)
        entry = self._l1.look(key)
        if entry is not None:
            self._age.observe(now - entry.since)

    def evicted(self, what: str, entries: int) -> None:
        """`what` took so many entries along."""
        self.evictors.offer(what, self._monotonic(), entries)
