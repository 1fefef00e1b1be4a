"""Settings of a process's cache."""

from __future__ import annotations

import re

import msgspec

from coord import limits
from coord.core.warming import FORECAST, RECORD, TRIGGER
from coord.errors import SettingsError
from coord.wire import subjects

_PATTERN = re.compile(rf"(?:\*|{subjects.TOKEN_PATTERN})\.(?:\*|{subjects.TOKEN_PATTERN})")


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is kept, for how long, and what evicts it."""

    l1_bytes: int = limits.CACHE_L1_BYTES
    """Of values, keys and their bookkeeping, in this process."""
    l2: bool = False
    """Share what functions allow to be shared with other processes, in the broker's memory (streams/CACHE_L2.toml)."""
    l3: bool = False
    """The same on the broker's disk (streams/CACHE_L3.toml): what outlives the processes."""
    ask_log: bool = False
    """Ask the log whether what they have from before this process began is current; without it that is loaded again.
    Only coord's own account may do that: it takes the JetStream API of EVENTS."""
    ttl_s: float = limits.CACHE_TTL_S
    """Where a cached function does not say its own."""
    jitter: float = limits.CACHE_JITTER
    """Part of it, at random, by which it is shortened; 0 to 0.9."""
    negative_ttl_s: float = limits.CACHE_NEGATIVE_TTL_S
    """Of None; 0: it is not kept."""
    load_timeout_s: float = limits.CACHE_LOAD_S
    watermark_wait_s: float = limits.CACHE_WATERMARK_S
    loads_max: int = limits.CACHE_LOADS_MAX
    """Loads under way at once."""
    warm: tuple[str, ...] = ()
    """Ways in which answers are here before they are asked for: ``record`` (what processes of this agent asked for
    most, at the start), ``trigger`` (what workflows that start are expected to read), ``forecast`` (what is asked for
    often and has left)."""
    tags: dict[str, tuple[str, ...]] = {}
    """Pattern ``{kind}.{id}``, each a token or ``*`` → tags that such facts evict besides their own; tags may hold
    ``{kind}`` and ``{id}``: ``{"task.*": ("board",), "agent.*": ("page:{id}",)}``."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if self.l1_bytes < limits.CACHE_L1_BYTES_MIN:
            raise SettingsError("cache.l1_bytes is too small", bytes_min=limits.CACHE_L1_BYTES_MIN)
        if (
            min(self.ttl_s, self.load_timeout_s, self.loads_max) <= 0
            or min(self.negative_ttl_s, self.watermark_wait_s) < 0
        ):
            raise SettingsError("cache: times and counts must be positive")
        if not set(self.warm) <= {RECORD, TRIGGER, FORECAST}:
            raise SettingsError("cache.warm: record, trigger or forecast", warm=", ".join(self.warm))
        if not 0 <= self.jitter <= 0.9:
            raise SettingsError("cache.jitter is 0 to 0.9")
        if sum(map(len, self.tags.values())) > limits.CACHE_RULES_MAX:
            raise SettingsError("cache.tags has too many rules", rules_max=limits.CACHE_RULES_MAX)
        for pattern, tags in self.tags.items():
            if not _PATTERN.fullmatch(pattern):
                raise SettingsError("cache.tags: a pattern is {kind}.{id}, each a token or *", pattern=pattern)
            if any(tag.startswith(("key:", "series:")) for tag in tags):
                raise SettingsError("cache.tags: tags of one partition are the projector's", pattern=pattern)
            if not all(0 < len(tag.encode()) <= limits.CACHE_TAG_BYTES_MAX for tag in tags):
                raise SettingsError("cache.tags: a tag is empty or too long", pattern=pattern)
