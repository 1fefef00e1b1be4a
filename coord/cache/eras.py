"""What was evicted by hand, for processes that were not there: eras.

A fact evicts at a place of the log, by which answers can be judged that others stored.  By hand something is evicted at
no place.  So each tag, key, or all, has an *era*, and an answer says in which eras of its own its load began; in
another one it is a miss.  An eviction by hand ends an era at once in this process, and for whoever looks at the record
of them in the tier: when a process begins, when it is told (`coord.cache.by_hand`), and every `limits.CACHE_ERAS_S`.

::

    record:  birth, { "t" + tag: (era, when), "k" + digest of a key: …, "*": all with tags, "!": all }

The name of a new era is made after what it replaces was read, and written only if that still stands: whoever meets it
loads in it later than any eviction it replaces.  Until it is written, or read, the era has a name that nobody else
knows.

A record that has left its tier took evictions along of which, perhaps, nobody who lives knows.  So there always is
one, and an answer says of which birth it was: what is from before a record's birth is a miss.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
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
BIRTH: Final = "#"
"""Of the record, beside the eras: in every answer's digest."""

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


def tags_of(whats: Collection[str]) -> list[str]:
    """The tags among them."""
    return [what[1:] for what in whats if what[0] == "t"]


def keys_of(whats: Collection[str]) -> list[str]:
    """What `of_key` called keys, of them."""
    return [what for what in whats if what[0] == "k"]


def digest(eras: Mapping[str, str], said: bytes, tags: Iterable[str]) -> bytes:
    """The eras of one answer; empty while no record is known."""
    if not eras:
        return b""
    whats = [BIRTH, EVERYTHING, of_key(said), *map(of_tag, sorted(tags))]
    if len(whats) > 3:
        whats.append(TAGGED)
    found = [(what, eras[what]) for what in whats if what in eras]
    return hashlib.blake2b(msgspec.json.encode(found), digest_size=8).digest()


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
        self.ended: Callable[[Collection[str]], None] = _nobody
        """Told of what was evicted by hand elsewhere, when that is found in the record and nobody had said so."""
        self._shelf = shelf
        self._ask = ask
        self._monotonic = monotonic
        self._wall = wall
        self._pending: dict[str, int] = {}
        """What was evicted by hand and is not in the record yet, how often."""
        self._read: Mapping[str, str] = NONE
        """As it was in the record when that was last read."""
        self._said: set[str] = set()
        """What was evicted since by this process, or by others who said so,"""
        self._doubts = 0
        """and how often there was reason to read it again."""
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
        for what in self._begin(whats):
            self._pending[what] = self._pending.get(what, 0) + 1
        if len(self._pending) > limits.CACHE_ERAS_MAX:
            self._pending = {EVERYTHING: sum(self._pending.values())}

    def told(self, whats: Iterable[str]) -> None:
        """Another process has written that these eras ended: whatever is in them is a miss until that was read."""
        self._said.update(self._begin(whats))
        if len(self._said) > limits.CACHE_ERAS_MAX:
            self._said = {EVERYTHING}

    def doubt(self) -> None:
        """What was said may have been missed: read the record before the tiers are used again."""
        self._doubts += 1
        self._looked_at = float("-inf")

    def _begin(self, whats: Iterable[str]) -> list[str]:
        """Eras of names that nobody else knows, until the record is read; what has them."""
        made = {what: secrets.token_hex(8) for what in whats}
        begun = {**self.now, **made}
        if len(begun) > limits.CACHE_ERAS_MAX:
            made = {EVERYTHING: secrets.token_hex(8)}
            begun = {what: era for what, era in self.now.items() if what == BIRTH} | made
        self.now = begun
        self.doubt()
        return list(made)

    async def sync(self, within_s: float | None = None) -> None:
        """Read the record, and write what was evicted here since; raises `CoordError`."""
        async with self._lock:
            for _ in range(_TRIES):
                if await self._synced(within_s):
                    self._looked_at = self._monotonic()
                    return
        raise errors.ApiUnavailable("the record of evictions by hand changes all the time")

    async def _synced(self, within_s: float | None) -> bool:
        doubts = self._doubts
        held = await self._ask(lambda: self._shelf.get(_NAME), within_s)
        record = _decoded(held)
        pending = dict(self._pending)
        base = {} if record is None else record.eras
        born = secrets.token_hex(8) if record is None else record.born
        if pending or held is None or record is None or self._is_old(record, held.seq):
            base = self._merged(base, pending)
            body = msgspec.msgpack.encode(Record(born, self._wall(), base))
            over = 0 if held is None else held.seq
            ttl_s = self._shelf.life_s
            if await self._ask(lambda: self._shelf.put(_NAME, body, ttl_s=ttl_s, over=over), within_s) is None:
                return False
        for what, count in pending.items():
            if self._pending.get(what) == count:
                del self._pending[what]
        self._said.update(pending)
        if self._doubts != doubts:
            return False  # what was said meanwhile may be newer than what was read
        self._take({BIRTH: born, **{what: era for what, (era, _) in base.items()}})
        return True

    def _take(self, read: Mapping[str, str]) -> None:
        """This is in the record."""
        before, self._read, self.now = self._read, read, read
        said, self._said = self._said, set()
        if before:  # else nothing is from before that
            new = {what for what, era in read.items() if before.get(what) != era}
            if new := new - said:
                self.ended(new)

    def _is_old(self, record: Record, seq: int) -> bool:
        return self._shelf.is_aging(seq) or self._wall() - record.written_at > self._shelf.life_s / 2

    def _merged(self, base: Mapping[str, tuple[str, float]], pending: Iterable[str]) -> dict[str, tuple[str, float]]:
        now = self._wall()
        kept = {what: era for what, era in base.items() if era[1] + self._shelf.life_s + _SPARE_S > now}
        merged = kept | {what: (secrets.token_hex(8), now) for what in pending}
        if len(merged) > limits.CACHE_ERAS_MAX:
            return {EVERYTHING: (secrets.token_hex(8), now)}
        return merged


def _nobody(_: Collection[str]) -> None:
    """Nobody wants to know."""


def _decoded(held: Held | None) -> Record | None:
    if held is None:
        return None
    try:
        return _decoder.decode(held.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # it begins anew


_decoder = msgspec.msgpack.Decoder(Record)
