"""What was evicted by hand, for processes that were not there: eras.

A fact evicts at a place of the log, by which answers can be judged that others stored.  By hand something is evicted at
no place.  So each tag, key, or all, has an *era*, and an answer says in which eras of its own its load began; in
another one it is a miss.  An eviction by hand ends an era at once in this process, and for whoever looks at the record
of them in the tier: when a process begins, and every `limits.CACHE_ERAS_S`.

::

    record:  { "t" + tag: (era, when), "k" + digest of a key: …, "*": all with tags, "!": all }

The name of a new era is made after what it replaces was read, and written only if that still stands: whoever meets it
loads in it later than any eviction it replaces.  Until it is written the era has a name that nobody else knows.
A record that was lost begins anew, and whoever remembers eras begins new ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.cache.tier import Held, Tier

_NAME: Final = "by-hand"
_TRIES: Final = 8
_SPARE_S: Final = 3_600.0
"""An era is remembered so much longer than anything from before it may be held: clocks differ."""

EVERYTHING: Final = "!"
TAGGED: Final = "*"

NONE: Final[Mapping[str, str]] = {}


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What the tier holds."""

    born: str
    written_at: float
    eras: dict[str, tuple[str, float]]
    """What → its era, and when that began, seconds since 1970."""


def of_tag(tag: str) -> str:
    """What a tag is called in the record."""
    return f"t{tag}"


def of_key(said: bytes) -> str:
    """What a key is called there."""
    return f"k{hashlib.blake2b(said, digest_size=16).hexdigest()}"


def digest(eras: Mapping[str, str], said: bytes, tags: Iterable[str]) -> bytes:
    """The eras of one answer; empty while there was no eviction by hand that may concern it."""
    if not eras:
        return b""
    whats = [EVERYTHING, of_key(said), *map(of_tag, sorted(tags))]
    if len(whats) > 2:
        whats.append(TAGGED)
    found = [(what, eras[what]) for what in whats if what in eras]
    return hashlib.blake2b(msgspec.json.encode(found), digest_size=8).digest() if found else b""


class Eras:
    """See the module."""

    def __init__(
        self,
        shelf: Tier,
        ask: Callable[[Callable[[], Awaitable[Any]], float | None], Awaitable[Any]],
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`ask`: calls one method of the shelf and awaits it, for so many seconds; raises `CoordError`."""
        self.now: Mapping[str, str] = NONE
        """What → its era; replaced, never changed."""
        self._shelf = shelf
        self._ask = ask
        self._monotonic = monotonic
        self._wall = wall
        self._pending: dict[str, int] = {}
        """What was evicted by hand and is not in the record yet, how often."""
        self._born = ""
        self._looked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def known(self, within_s: float) -> bool:
        """Whether the record is known, as of a few seconds ago; looks at it where it is not."""
        if self._monotonic() - self._looked_at >= limits.CACHE_ERAS_S:
            try:
                # Whoever waits for another's look, too; longer than one question, whose own end is to be counted.
                async with asyncio.timeout(1.5 * within_s + 0.01):
                    await self.sync(within_s)
            except (errors.CoordError, TimeoutError):
                return False
        return True

    def end(self, whats: Iterable[str]) -> None:
        """Evicted by hand: their eras end, in this process now, in others when `sync` is done."""
        begun = dict(self.now)
        for what in whats:
            self._pending[what] = self._pending.get(what, 0) + 1
            begun[what] = secrets.token_hex(8)
        if len(begun) > limits.CACHE_ERAS_MAX:
            begun = {EVERYTHING: secrets.token_hex(8)}
            self._pending = {EVERYTHING: self._pending.get(EVERYTHING, 0) + 1}
        self.now = begun
        self._looked_at = float("-inf")  # before the tiers are used again it is written

    async def sync(self, within_s: float | None = None) -> None:
        """Read the record, and write what was evicted here since; raises `CoordError`."""
        async with self._lock:
            for _ in range(_TRIES):
                if await self._synced(within_s):
                    self._looked_at = self._monotonic()
                    return
        raise errors.ApiUnavailable("the record of evictions by hand changes all the time")

    async def _synced(self, within_s: float | None) -> bool:
        held = await self._ask(lambda: self._shelf.get(_NAME), within_s)
        record = _decoded(held)
        pending = dict(self._pending)
        if self._born and (record is None or record.born != self._born):
            pending = {what: self._pending.get(what, 0) for what in self.now}
        if record is None and not pending:
            return True
        base = {} if record is None else record.eras
        born = secrets.token_hex(8) if record is None else record.born
        if pending or (record is not None and held is not None and self._is_old(record, held.seq)):
            base = self._merged(base, pending)
            body = msgspec.msgpack.encode(Record(born, self._wall(), base))
            over = 0 if held is None else held.seq
            ttl_s = self._shelf.life_s
            if await self._ask(lambda: self._shelf.put(_NAME, body, ttl_s=ttl_s, over=over), within_s) is None:
                return False
        for what, count in pending.items():
            if self._pending.get(what) == count:
                del self._pending[what]
        self._born = born
        self.now = {what: era for what, (era, _) in base.items()} | {what: self.now[what] for what in self._pending}
        return True

    def _is_old(self, record: Record, seq: int) -> bool:
        return self._shelf.is_aging(seq) or self._wall() - record.written_at > self._shelf.life_s / 2

    def _merged(self, base: Mapping[str, tuple[str, float]], pending: Iterable[str]) -> dict[str, tuple[str, float]]:
        now = self._wall()
        kept = {what: era for what, era in base.items() if era[1] + self._shelf.life_s + _SPARE_S > now}
        merged = kept | {what: (secrets.token_hex(8), now) for what in pending}
        if len(merged) > limits.CACHE_ERAS_MAX:
            return {EVERYTHING: (secrets.token_hex(8), now)}
        return merged


def _decoded(held: Held | None) -> Record | None:
    if held is None:
        return None
    try:
        return _decoder.decode(held.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # it begins anew


_decoder = msgspec.msgpack.Decoder(Record)
