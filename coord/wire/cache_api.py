"""What is asked of caches, and what they answer: JSON (`subjects.ask`, `subjects.answer`).

An operator asks all caches of a tenant at once, on one subject; each that is meant answers once, on a subject that
names the agent it is of and whoever asked, so that permissions see to it that nobody answers for another.
An answer is a sample of a moment: nothing depends on it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from coord import limits
from coord.errors import InvalidPayload
from coord.wire import subjects

What = Literal["stats", "top", "get", "evict"]


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """One tier of one process, since that began and as it is now."""

    tier: str = "l1"
    hits: int
    misses: int
    stale: int
    """Served after their time, where that is allowed."""
    joined: int
    """Callers that waited for somebody else's load."""
    loads: int
    load_errors: int
    kept: int
    """Entries there are."""
    bytes: int
    """They hold."""
    bytes_max: int
    dropped: dict[str, int]
    """Entries that left, by why: notice, backlog, gap, session, lost, manual, full, expired, replaced, too_large."""
    refused: dict[str, int]
    """Loads handed over and not kept, by why: overtaken by an eviction, unvouched (no notices), tags, invalid."""
    notices: int
    gaps: int
    moved: dict[str, int] = {}
    """Facts that moved entries on (moved), notices that changed nothing of an entry (spared), and entries that could
    not be moved, by why (docs/howto/caches.md)."""
    outcomes: dict[str, int] = {}
    """Of a tier that processes share: what came of asking it and of storing there (docs/howto/caches.md)."""

    @property
    def hit_rate(self) -> float:
        """Part of the reads that were answered from here, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


class Paid(msgspec.Struct, frozen=True, kw_only=True):
    """What one way has cost and brought, since its process began."""

    way: str
    is_on: bool
    loads: int
    """Spent: loaders called; what came from another tier is not among them."""
    values: int
    """Kept, from wherever."""
    bytes: int
    """They held."""
    used: int
    """Of these, read at least once: hits gained."""
    unused: int
    """Left without having been read."""

    @property
    def hits_per_load(self) -> float:
        """Hits gained for each load spent."""
        return self.used / max(1, self.loads)

    @property
    def hits_per_mb(self) -> float:
        """Hits gained for each megabyte that was filled."""
        return self.used / max(1, self.bytes) * 1e6


class CacheAsk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question to the caches of a tenant."""

    asker: str
    """The token under which answers are awaited."""
    what: What
    agent: str = ""
    """Only its processes; empty: everybody's."""
    instance: str = ""
    """Only this one."""
    limit: int = 20
    """Entries of an answer, at most."""
    keys: str = ""
    """Of ``get`` and ``evict``: keys as they are shown, ``*`` and ``?`` stand for anything."""
    tags: tuple[str, ...] = ()
    everything: bool = False
    """Of ``evict``."""
    values: bool = False
    """Of ``get``: how the values begin, besides."""


class HeldEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key, in one tier of one process."""

    key: str
    tier: str = "l1"
    reads: float = 0.0
    """Of late, each half as much after ten minutes; an estimate, from samples."""
    bytes: int | None = None
    """None: it is asked for and not kept now."""
    age_s: float | None = None
    fresh_s: float | None = None
    """How much longer it is fresh; negative: kept for who takes it stale."""
    tags: tuple[str, ...] = ()
    value: str | None = None


class Evictor(msgspec.Struct, frozen=True, kw_only=True):
    """What took entries along."""

    tag: str
    entries: float
    """Of late, each half as much after ten minutes."""


class CacheAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one process."""

    agent: str
    instance: str
    tiers: tuple[CacheStats, ...] = ()
    entries: tuple[HeldEntry, ...] = ()
    more: bool = False
    """There are more entries than were asked for."""
    evictors: tuple[Evictor, ...] = ()
    ways: tuple[Paid, ...] = ()
    """Of warming, and whether they pay."""
    gone: int = 0
    """Entries that were evicted by this."""


class ByHand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one process evicted by hand, for all others of its tenant (`told_by_hand`)."""

    by: str
    """That process, by a name of its own."""
    tags: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    """As shared tiers know them (`coord.cache.entries.key_bytes`), in hexadecimal."""
    everything: bool = False
    """All that has tags, or more than can be named."""


encode = msgspec.json.Encoder().encode
_asks = msgspec.json.Decoder(CacheAsk)
_answers = msgspec.json.Decoder(CacheAnswer)
_by_hand = msgspec.json.Decoder(ByHand)


def read_ask(body: bytes) -> CacheAsk:
    """The question in `body`; raises `InvalidPayload` for what is none."""
    try:
        ask = _asks.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidPayload(f"not a question to a cache: {exc}") from exc
    if len(ask.keys) > limits.CACHE_KEY_BYTES_MAX or len(ask.tags) > limits.CACHE_ASKED_TAGS_MAX:
        raise InvalidPayload("not a question to a cache: too long")
    limit = min(max(1, ask.limit), limits.CACHE_SHOWN_MAX)
    return ask if limit == ask.limit else msgspec.structs.replace(ask, limit=limit)


def told_by_hand(tenant: str) -> str:
    """The subject on which a tenant's caches tell each other what was evicted by hand: one of its notices'."""
    return subjects.notices(tenant).removesuffix("*") + "hand"


def read_by_hand(body: bytes) -> ByHand:
    """What was evicted; raises `InvalidPayload` for what says nothing of the kind."""
    try:
        said = _by_hand.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidPayload(f"not an eviction by hand: {exc}") from exc
    if (
        len(said.tags) > limits.CACHE_ASKED_TAGS_MAX
        or len(said.keys) > limits.CACHE_TOLD_KEYS_MAX
        or any(len(tag.encode()) > limits.CACHE_TAG_BYTES_MAX for tag in said.tags)
        or any(len(key) > 2 * limits.CACHE_KEY_PACKED_MAX for key in said.keys)
    ):
        raise InvalidPayload("not an eviction by hand: too long")
    return said


def read_answer(body: bytes) -> CacheAnswer:
    """The answer in `body`; raises `InvalidPayload` for what is none."""
    try:
        return _answers.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidPayload(f"not an answer of a cache: {exc}") from exc
