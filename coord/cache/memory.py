"""L1: values of one process, strictly within a bound of bytes; the least recently used leave first.

`MemoryCache` is aiocache's interface over a cachebox.  aiocache's own memory cache has no bound, its ``clear()``
leaves timers behind that delete keys set later, and a get costs ten times as much (docs/adr/0105).  The bytes counted
are those of values, keys, tags and what keeps them.

``peek`` is the way in for whoever is in a hurry: the cachebox's own get, which knows no time.  So values that expire
are taken out of it, by one timer of the event loop: a loop that stands still serves them for so much longer, as it
does not hear of evictions either.  What may still be served stale is kept beside it.

Values are kept as they are, not copied: whoever changes one changes it for all.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Container, Hashable, Iterable
from typing import Any, Final

from aiocache.base import SENTINEL, BaseCache
from aiocache.serializers import BaseSerializer, NullSerializer
from cachebox import LRUCache

from coord import errors, limits
from coord.cache.sizes import held_bytes
from coord.runtime import clock

MISSING: Final = SENTINEL
"""Not there; None may be a value."""

_ENTRY_BYTES: Final = 512
"""An entry, its tuple of tags and its slots in the cachebox, the entries and the times: measured, rounded up
(tests/unit/test_cache_memory.py holds the whole against the process's memory)."""

_TAG_BYTES: Final = 416
"""A tag's set of keys, its slot in the index, and the key's slot in the set."""

_TIMER_S: Final = 0.05
"""Values expire this much late at most, so that the timer of many runs seldom."""

_TIMES_SPARE: Final = 1_024
"""Times of values that left before, which are kept until there are as many as entries and these."""

_AIOCACHES: Final = frozenset({"namespace", "build_key", "_plugins", "_serializer"})
"""Attributes of its `BaseCache` that change what a get is."""

Dropped = Callable[[str, int], None]
"""Told how many entries left, and why."""


class Entry:
    """One value that is kept."""

    __slots__ = ("bytes", "expires", "kept_until", "looked_at", "moving", "since", "tags", "value")

    def __init__(
        self, value: Any, since: float, expires: float, kept_until: float, size: int, tags: tuple[str, ...],
        moving: Any = None,
    ) -> None:  # fmt: skip
        self.value = value
        self.since = since
        """When it began to be loaded, or came (monotonic seconds)."""
        self.expires = expires
        """Fresh until (monotonic seconds);"""
        self.kept_until = kept_until
        """what is allowed to serve stale values may do so until then."""
        self.looked_at = expires
        """When its time is looked at next."""
        self.bytes = size
        self.tags = tags
        self.moving = moving
        """Where it stands, if facts move it on (`coord.cache.moving`)."""


class MemoryCache(BaseCache):  # type: ignore[misc]  # aiocache ships no types
    """See the module.  Not thread-safe; any number of tasks of one event loop may use it."""

    NAME = "memory"

    def __init__(
        self,
        *,
        bytes_max: int = limits.CACHE_L1_BYTES,
        ttl: float | None = limits.CACHE_TTL_S,
        jitter: float = limits.CACHE_JITTER,
        rng: random.Random | None = None,
        monotonic: Callable[[], float] | None = None,
        dropped: Dropped | None = None,
        serializer: BaseSerializer | None = None,
        timeout: float | None = None,
        **aiocache: Any,
    ) -> None:
        """`bytes_max`: of all; one value may have a quarter.  `ttl`: seconds, None: for ever.

        `jitter`: part of it by which it is shortened at random.  `serializer`, `timeout` and others are
        aiocache's; values are kept as they are by default, and nothing here takes long enough for a timeout.
        """
        self._is_plain = False
        super().__init__(
            serializer=NullSerializer() if serializer is None else serializer, timeout=timeout, ttl=ttl, **aiocache
        )
        self.bytes_max = bytes_max
        self.jitter = jitter
        self.bytes = 0
        """Held now, as counted."""
        self._rng = rng or random.Random()
        self._monotonic = monotonic or clock.monotonic
        self._dropped = dropped or _unheard
        self._fresh: LRUCache[Hashable, Any] = LRUCache(0)
        self._entries: dict[Hashable, Entry] = {}
        self._stale: dict[Hashable, None] = {}
        """Expired and still allowed to somebody, in the order of that: the first to go."""
        self._due: dict[Hashable, float] = {}
        """Not what it was, and not made what it is by now: since when, in the order of that (`put_off`)."""
        self._aside: dict[Hashable, str] = {}
        """Brought before anybody asked, in which way, and not read since; in the order of that."""
        self._aside_bytes = 0
        self.settled: Callable[[Hashable, str, str], None] | None = None
        """Told of each of these, once: its key, the way, and ``used``, or ``unused`` where it left without that."""
        self._tagged: dict[str, set[Hashable]] = {}
        self._times: list[tuple[float, int, Hashable]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_of: asyncio.AbstractEventLoop | None = None
        self.peek: Final[Callable[..., Any]] = self._fresh.get
        """``peek(key, default=None)``: the fresh value under exactly this key (namespaces are aiocache's); counts as
        used.  Nothing is awaited, checked or counted; an unhashable key is a `TypeError`.  What was set aside is
        not seen here; `read` sees it."""
        self._is_plain = not any(aiocache.values()) and type(self._serializer) is NullSerializer

    def __setattr__(self, name: str, value: Any) -> None:
        """Whoever sets one of aiocache's own later on gets aiocache's way of reading."""
        object.__setattr__(self, name, value)
        if name in _AIOCACHES:
            object.__setattr__(self, "_is_plain", False)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def value_bytes_max(self) -> int:
        """The largest value that is taken."""
        return int(self.bytes_max * limits.CACHE_VALUE_SHARE)

    # --- without awaiting ----------------------------------------------------------------

    def entry(self, key: Hashable) -> Entry | None:
        """What is kept and may be served, fresh or not; counts as used."""
        self._fresh.get(key)
        found = self._entries.get(key)
        if found is not None and found.kept_until <= self._monotonic():
            self._drop(key, "expired")
            return None
        if self._aside:
            self.claim(key)
        return None if key in self._due else found

    def set_aside(self, key: Hashable, way: str) -> int | None:
        """A fresh value was brought before anybody asked: the first who does is told of (`settled`).

        Returns the bytes it holds; None: it is not here, or somebody else's already.
        """
        entry = self._entries.get(key)
        if entry is None or key not in self._fresh:
            return None
        del self._fresh[key]
        self._aside[key] = way
        self._aside_bytes += entry.bytes
        while self._aside_bytes > self.bytes_max * limits.CACHE_WARM_SHARE:
            self._drop(next(iter(self._aside)), "unread")
        return entry.bytes

    def claim(self, key: Hashable, default: Any = None) -> Any:
        """The value that was set aside under a key, which is as any other from now on."""
        entry = self._entries.get(key)
        if entry is None or not self._settle(key, entry, used=True):
            return default
        self._fresh[key] = entry.value
        return entry.value

    def _settle(self, key: Hashable, entry: Entry, *, used: bool) -> bool:
        way = self._aside.pop(key, None)
        if way is None:
            return False
        self._aside_bytes -= entry.bytes
        if self.settled is not None:
            self.settled(key, way, "used" if used else "unused")
        return True

    def read(self, key: Hashable, default: Any = None) -> Any:
        """`peek`, which knows of what was set aside, too."""
        found = self.peek(key, MISSING)
        return self.claim(key, default) if found is MISSING else found

    # --- entries that move on ------------------------------------------------------------

    def put_off(self, key: Hashable, more_bytes: int) -> bool:
        """What is under a key is no longer what it should be, and will be (`put_back`) when somebody asks for it.

        `more_bytes`: held for that.  False: it is nobody's yet, or expired, or there is no room, and has to go.
        """
        entry = self._entries[key]
        if key not in self._due:
            if key not in self._fresh:
                return False
            del self._fresh[key]
            self._due[key] = self._monotonic()
        entry.bytes += more_bytes
        self.bytes += more_bytes
        self._make_room(0)
        return key in self._entries

    def due(self, key: Hashable) -> Entry | None:
        """What was put off, and not put back; None also where it has expired since."""
        if key not in self._due:
            return None
        entry = self._entries[key]
        if entry.expires <= self._monotonic():
            self._drop(key, "expired")
            return None
        return entry

    def put_back(self, key: Hashable, value: Any, beside: int) -> bool:
        """It is this by now; counts as used.  False: it is too large, and gone."""
        entry = self._entries[key]
        size = self._size(key, value, entry.tags)
        if size is None or size + beside > self.bytes_max:
            self._drop(key, "too_large")
            return False
        self.bytes += size + beside - entry.bytes
        entry.bytes = size + beside
        entry.value = value
        del self._due[key]
        self._fresh[key] = value
        self._make_room(0)
        return True

    def tagged(self, tag: str) -> tuple[Hashable, ...]:
        """The keys of what has a tag: a copy."""
        return tuple(self._tagged.get(tag, ()))

    # --- keeping and dropping ------------------------------------------------------------

    def keep(
        self, key: Hashable, value: Any, *, ttl_s: float | None, stale_s: float = 0.0, tags: tuple[str, ...] = (),
        age_s: float = 0.0, moving: Any = None, beside: int = 0,
    ) -> bool:  # fmt: skip
        """Keep a value for `ttl_s`, and for `stale_s` more for whoever takes it stale; whether it was taken.

        `age_s`: how old it is as it comes.  `moving`: where it stands, with so many bytes `beside` the value.
        Raises `InvalidCacheKey`; what is too large is refused, and what was there under the key is gone then.
        """
        now = self._monotonic()
        expires = now + (float("inf") if ttl_s is None else ttl_s * (1 - self.jitter * self._rng.random()))
        return self._store(key, value, expires, expires + stale_s, tags, now - age_s, moving, beside)

    def _store(
        self, key: Hashable, value: Any, expires: float, kept_until: float, tags: tuple[str, ...], since: float,
        moving: Any = None, beside: int = 0,
    ) -> bool:  # fmt: skip
        size = self._size(key, value, tags)
        if key in self._entries:
            self._drop(key, "replaced")
        if size is None or size + beside > self.bytes_max:
            self._dropped("too_large", 1)
            return False
        size += beside
        self._make_room(size)
        self._fresh[key] = value
        self._entries[key] = entry = Entry(value, since, expires, kept_until, size, tags, moving)
        self.bytes += size
        for tag in tags:
            self._tagged.setdefault(tag, set()).add(key)
        self._look_at(key, entry, expires)
        return True

    def _make_room(self, size: int) -> None:
        while self.bytes + size > self.bytes_max:
            self._drop(self._first_to_go(), "full")

    def _first_to_go(self) -> Hashable:
        if self._stale:
            return next(iter(self._stale))
        if self._due:
            key, since = next(iter(self._due.items()))
            if not len(self._fresh) or self._monotonic() - since >= limits.CACHE_DUE_S:
                return key
        return self._fresh.least_recently_used() if len(self._fresh) else next(iter(self._aside))

    def drop(self, key: Hashable, reason: str = "manual") -> bool:
        """Whether there was something to drop."""
        return key in self._entries and self._drop(key, reason)

    def drop_tags(self, tags: Iterable[str], reason: str, spared: Container[Hashable] = ()) -> int:
        """Drop what has one of these tags, but not these keys; how many."""
        gone = 0
        for tag in tags:
            keys = self._tagged.get(tag)
            if keys is not None:  # most of what is committed nobody here has
                gone += sum([self._drop(key, reason) for key in tuple(keys) if key not in spared])
        return gone

    def drop_where(self, touched: Callable[[str], bool], reason: str) -> int:
        """Drop what has a tag of which that is said; how many."""
        return self.drop_tags([tag for tag in self._tagged if touched(tag)], reason)

    def look(self, key: Hashable) -> Entry | None:
        """What is kept, fresh or not; does not count as used."""
        return self._entries.get(key)

    def keys(self) -> list[Hashable]:
        """Of all that is kept, the least recently used first: a copy."""
        return [*self._stale, *self._due, *self._aside, *self._fresh.keys()]

    def tags(self) -> dict[str, int]:
        """How many entries each tag has: a copy."""
        return {tag: len(keys) for tag, keys in self._tagged.items()}

    def _drop(self, key: Hashable, reason: str) -> bool:
        entry = self._entries.pop(key)
        self.bytes -= entry.bytes
        if (
            self._stale.pop(key, MISSING) is MISSING
            and self._due.pop(key, MISSING) is MISSING
            and not self._settle(key, entry, used=False)
        ):
            del self._fresh[key]
        for tag in entry.tags:
            keys = self._tagged.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._tagged[tag]
        self._dropped(reason, 1)
        return True

    # --- time ----------------------------------------------------------------------------

    def sweep(self) -> None:
        """Take out what has expired.  The loop's timer does it; whoever has no loop does it now and then."""
        now = self._monotonic()
        while self._times and self._times[0][0] <= now:
            at, _, key = heapq.heappop(self._times)
            entry = self._entries.get(key)
            if entry is None or entry.looked_at != at:
                continue  # another one's by now
            if entry.kept_until <= now or key in self._due:  # facts took that from being served stale
                self._drop(key, "expired")
            else:
                if not self._settle(key, entry, used=False):
                    del self._fresh[key]
                self._stale[key] = None
                self._look_at(key, entry, entry.kept_until)

    def _look_at(self, key: Hashable, entry: Entry, at: float) -> None:
        entry.looked_at = at
        if at == float("inf"):
            return
        if len(self._times) >= 2 * len(self._entries) + _TIMES_SPARE:
            self._times = [time for time in self._times if self._is_of_entry(*time)]
            heapq.heapify(self._times)
        heapq.heappush(self._times, (at, next(self._numbers), key))
        self._wind()

    def _is_of_entry(self, at: float, _number: int, key: Hashable) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.looked_at == at

    def _wind(self) -> None:
        """Have the timer run for the first time there is; without a running loop, the next call with one does that."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._timer is not None and self._timer_of is loop:
            if self._timer.when() <= loop.time() + max(_TIMER_S, self._times[0][0] - self._monotonic()):
                return
            self._timer.cancel()
        self._timer_of = loop
        self._timer = loop.call_later(max(_TIMER_S, self._times[0][0] - self._monotonic()), self._rung)

    def _rung(self) -> None:
        self._timer = None
        self.sweep()
        if self._times:
            self._wind()

    def _size(self, key: Hashable, value: Any, tags: tuple[str, ...]) -> int | None:
        of_key = held_bytes(key, limits.CACHE_KEY_BYTES_MAX + limits.CACHE_KEY_PARTS_MAX * 100)
        if of_key is None:
            raise errors.InvalidCacheKey("a key is too long", bytes_max=limits.CACHE_KEY_BYTES_MAX)
        of_value = held_bytes(value, self.value_bytes_max)
        if of_value is None:
            return None
        return of_key + of_value + _ENTRY_BYTES + sum([_TAG_BYTES + len(tag.encode()) for tag in tags])

    # --- aiocache's ----------------------------------------------------------------------

    async def get(
        self, key: Any, default: Any = None, loads_fn: Any = None, namespace: str | None = None, _conn: object = None,
        timeout: Any = MISSING,
    ) -> Any:  # fmt: skip
        """Aiocache's get: `default` also for a kept None.  Where nothing of aiocache's has to be done it is short."""
        if self._is_plain and loads_fn is namespace is None and timeout is MISSING:
            try:
                found = self.peek(key)
            except TypeError as exc:
                raise errors.InvalidCacheKey(str(exc)) from exc
            if found is None and self._aside:
                found = self.claim(key)
            return default if found is None else found
        given = {} if timeout is MISSING else {"timeout": timeout}
        return await super().get(key, default, loads_fn, namespace, _conn, **given)

    async def _get(self, key: Hashable, **_: object) -> Any:
        return self.read(key, None)

    async def _gets(self, key: Hashable, **_: object) -> Any:
        return self.read(key, None)

    async def _multi_get(self, keys: Iterable[Hashable], **_: object) -> list[Any]:
        return [self.read(key, None) for key in keys]

    async def _set(
        self, key: Hashable, value: Any, ttl: float | None = None, _cas_token: Any = None, _conn: object = None
    ) -> bool | int:
        if _cas_token is not None and _cas_token != self.read(key, None):
            return 0
        try:
            taken = self.keep(key, value, ttl_s=ttl or None)
        except TypeError as exc:
            raise errors.InvalidCacheKey(str(exc)) from exc
        if not taken:
            raise errors.CacheValueTooLarge(bytes_max=self.value_bytes_max)
        return True

    async def _multi_set(
        self, pairs: Iterable[tuple[Hashable, Any]], ttl: float | None = None, _conn: object = None
    ) -> bool:
        for key, value in pairs:
            await self._set(key, value, ttl)
        return True

    async def _add(self, key: Hashable, value: Any, ttl: float | None = None, _conn: object = None) -> bool:
        if self.read(key, MISSING) is not MISSING:
            raise ValueError(f"Key {key!r} already exists, use .set to update the value")
        return bool(await self._set(key, value, ttl))

    async def _exists(self, key: Hashable, _conn: object = None) -> bool:
        return self.read(key, MISSING) is not MISSING

    async def _increment(self, key: Hashable, delta: int, _conn: object = None) -> int:
        entry = self.entry(key)
        if entry is None or entry.expires <= self._monotonic():
            await self._set(key, delta, self.ttl)
            return delta
        if not isinstance(entry.value, int):
            raise TypeError("Value is not an integer")
        value = entry.value + delta
        self._store(key, value, entry.expires, entry.kept_until, entry.tags, self._monotonic())
        return value

    async def _expire(self, key: Hashable, ttl: float, _conn: object = None) -> bool:
        entry = self.entry(key)
        if entry is None:
            return False
        at = self._monotonic() + ttl if ttl else float("inf")
        return self._store(key, entry.value, at, at, entry.tags, entry.since)

    async def _delete(self, key: Hashable, _conn: object = None) -> int:
        return int(self.drop(key))

    async def _clear(self, namespace: str | None = None, _conn: object = None) -> bool:
        if namespace:
            self._drop_all(key for key in self.keys() if isinstance(key, str) and key.startswith(namespace))
        else:
            self._drop_all(self.keys())
        return True

    def _drop_all(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._drop(key, "manual")

    async def _raw(self, command: str, *args: Any, **_: object) -> Any:
        raise NotImplementedError(f"{command}: there is no command behind this cache's back")

    async def _close(self, *_: Any, **__: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _redlock_release(self, key: Hashable, value: Any) -> int:
        # aiocache's `cached_stampede` locks with keys of its own.
        return int(self.read(key, None) == value and self.drop(key))


def _unheard(_reason: str, _count: int) -> None:
    """Nobody counts."""
