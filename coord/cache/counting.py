"""What a cache counts.

A hit takes a sixth of a microsecond, a metric's increment twice that: counts are plain integers, which `publish`
hands to the metrics about once a second, when something slower than a hit happens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Final

from coord import limits
from coord.cache.memory import MemoryCache
from coord.runtime import clock
from coord.telemetry.metrics import Metrics
from coord.telemetry.metrics import default as default_metrics
from coord.wire.cache_api import CacheStats

_EVERY_S: Final = 1.0
_TIER: Final = "l1"


class Counting:
    """See the module."""

    def __init__(self, metrics: Metrics | None = None, rng: random.Random | None = None) -> None:
        self.left = 1
        """Hits until one is looked at: whoever counts one by itself takes one off, and at 0 calls `sample`."""
        self.sampled: Callable[[Hashable, int], None] | None = None
        """Told the key of a hit that is looked at, and how many it stands for."""
        self.missed: Callable[[Hashable], None] | None = None
        """Told the key of every miss."""
        self._stride = self.left
        self._hits = 0
        self._rng = rng or random.Random()
        self._misses = 0
        self._joined = 0
        self._loads = 0
        self._errors: dict[str, int] = {}
        self._stale: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._notices: dict[str, int] = {}
        self._gaps = 0
        self._moved: dict[str, int] = {}
        self._metrics = metrics or default_metrics()
        self._m_load = self._metrics.cache_load_seconds.labels(tier=_TIER)
        self._published: dict[tuple[int, str], int] = {}
        self._held = (0, 0)
        self._next_at = 0.0

    @property
    def hits(self) -> int:
        """Reads served from here."""
        return self._hits + self._stride - self.left

    def hit(self, key: Hashable) -> None:
        """Served from here."""
        self.left -= 1
        if not self.left:
            self.sample(key)

    def sample(self, key: Hashable) -> None:
        """Look at this hit, and decide which one is looked at next."""
        hits = self._stride
        self._hits += hits
        self._stride = self.left = self._rng.randint(1, 2 * limits.CACHE_SAMPLED_HITS - 1)
        if self.sampled is not None:
            self.sampled(key, hits)

    def miss(self, key: Hashable) -> None:
        """Not here, or not fresh."""
        self._misses += 1
        if self.missed is not None:
            self.missed(key)

    def joined(self) -> None:
        """Waited for somebody else's load."""
        self._joined += 1

    def stale(self, why: str) -> None:
        """Served after its time."""
        _add(self._stale, why)

    def loaded(self, took_s: float) -> None:
        """A load ended, however."""
        self._loads += 1
        self._m_load.observe(took_s)

    def failed(self, error: Exception) -> None:
        """A loader raised."""
        _add(self._errors, getattr(type(error), "code", "loader"))

    def behind(self) -> None:
        """Tables were older than what is known to be committed, and were read again."""
        _add(self._refused, "behind")

    def refused(self, why: str) -> None:
        """Handed over and not kept."""
        _add(self._refused, why)

    def dropped(self, why: str, count: int) -> None:
        """Entries left."""
        _add(self._dropped, why, count)

    def notice(self) -> None:
        """One was applied."""
        _add(self._notices, "applied")

    def unreadable(self) -> None:
        """One was none."""
        _add(self._notices, "unreadable")

    def gap(self) -> None:
        """Notices may have been missed."""
        self._gaps += 1

    def moved(self, outcome: str, count: int = 1) -> None:
        """Facts moved an entry on, or left it as it is (spared); else why it could not be moved."""
        _add(self._moved, outcome, count)

    def stats(self, l1: MemoryCache) -> CacheStats:
        """All of it."""
        return CacheStats(
            hits=self.hits,
            misses=self._misses,
            stale=sum(self._stale.values()),
            joined=self._joined,
            loads=self._loads,
            load_errors=sum(self._errors.values()),
            kept=len(l1),
            bytes=l1.bytes,
            bytes_max=l1.bytes_max,
            dropped=dict(self._dropped),
            refused=dict(self._refused),
            notices=self._notices.get("applied", 0),
            gaps=self._gaps,
            moved=dict(self._moved),
        )

    def publish_now_and_then(self, l1: MemoryCache) -> None:
        """`publish`, once a second at most."""
        now = clock.monotonic()
        if now >= self._next_at:
            self._next_at = now + _EVERY_S
            self.publish(l1)

    def publish(self, l1: MemoryCache) -> None:
        """Hand what was counted since to the metrics."""
        metrics = self._metrics
        lookups = {"hit": self.hits, "miss": self._misses, "joined": self._joined} | {
            f"stale_{why}": count for why, count in self._stale.items()
        }
        families = (
            (metrics.cache_lookups, lookups),
            (metrics.cache_dropped, self._dropped),
            (metrics.cache_refused, self._refused),
            (metrics.cache_load_errors, self._errors),
            (metrics.cache_notices, self._notices | {"gap": self._gaps}),
            (metrics.cache_moved, self._moved),
        )
        for number, (family, counts) in enumerate(families):
            for name, count in counts.items():
                more = count - self._published.get((number, name), 0)
                if more:
                    self._published[number, name] = count
                    family.labels(_TIER, name).inc(more)
        # By difference: a process may have several caches.
        held = (l1.bytes, len(l1))
        for gauge, now, before in zip((metrics.cache_bytes, metrics.cache_entries), held, self._held, strict=True):
            gauge.labels(tier=_TIER).inc(now - before)
        self._held = held


def _add(counts: dict[str, int], name: str, count: int = 1) -> None:
    counts[name] = counts.get(name, 0) + count
