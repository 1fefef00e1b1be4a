"""What a cache tells about itself when somebody asks: `coord cache stats|get|evict|top`.

One subscription a process.  Questions are few a second and answered one after the other: keys are looked through in
pieces, so that a million of them hold up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import reprlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final

from coord import errors, limits
from coord.cache.functions import Functions
from coord.cache.hearing import Heard, Line
from coord.cache.keys import shown
from coord.cache.loading import Cache
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import subjects
from coord.wire.cache_api import CacheAnswer, CacheAsk, CacheStats, Evictor, HeldEntry, Paid, encode, read_ask

_log = logs.get("cache")

_MISSES: Final = ("miss", "evicted", "unproven", "expired", "tags", "damaged")
_FAILURES: Final = ("error", "away")
"""What comes of asking a tier below (`coord.cache.tiers.Tiers.outcomes`)."""

_shortened: Final = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = limits.CACHE_SHOWN_CHARS

_PIECE: Final = 500
"""Keys that are looked at without a pause: half a millisecond."""


class Showing:
    """Of one cache of one agent's process.  `close` it before the connection."""

    def __init__(
        self,
        conn: Line,
        cache: Cache,
        tenant: str,
        agent: str,
        instance: str,
        functions: Functions | None = None,
        paid: Callable[[], Iterable[Paid]] = tuple,
    ) -> None:
        """`functions`: who know what else of their answers lies in tiers below L1.

        `paid`: what ways of warming have cost and brought, where there are any.
        """
        self._conn = conn
        self._cache = cache
        self._tenant = tenant
        self._agent = agent
        self._instance = instance
        self._functions = functions
        self._paid = paid
        self._heard: Heard | None = None
        self._asks: asyncio.Queue[CacheAsk] = asyncio.Queue(limits.CACHE_ASKS_MAX)
        self._running: asyncio.Task[None] | None = None
        self.ignored = 0
        """Questions that were none, or one too many."""

    def start(self) -> None:
        """Answer from now on, as soon as the broker lets it.  Twice is legal."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._answer_all(), name="coord-cache-showing")

    async def close(self) -> None:
        """Answer no more.  Twice is legal."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        heard, self._heard = self._heard, None
        if heard is not None:
            await heard.unsubscribe()

    async def _answer_all(self) -> None:
        await self._listen()
        while True:
            ask = await self._asks.get()
            try:
                answer = await self._answer(ask)
                self._conn.publish(subjects.answer(self._tenant, self._agent, ask.asker), encode(answer))
            except errors.CoordError as exc:
                # Whoever asked asks again: it knows how many it expects, or does not.
                _log.debug("cache.answer_lost", what=ask.what, error=exc)
            except Exception as exc:  # noqa: BLE001 - a defect in showing must not end what shows
                _log.error("cache.answer_failed", what=ask.what, exc_info=exc)

    async def _listen(self) -> None:
        subject = subjects.ask(self._tenant, subjects.UNKNOWN, "cache")
        while self._heard is None:
            asking = asyncio.ensure_future(self._conn.subscribe_bytes(subject, self._asked))
            try:
                self._heard = await asyncio.shield(asking)
            except errors.CoordError:
                await asyncio.sleep(limits.RECONNECT_WAIT_S)
            except asyncio.CancelledError:
                with contextlib.suppress(errors.CoordError):
                    await (await asking).unsubscribe()  # else nobody would know of it
                raise

    def _asked(self, _subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        if reply or headers:  # the broker's answer to somebody who wants it to seem a question (`hearing`)
            self.ignored += 1
            return
        try:
            ask = read_ask(body)
            subjects.check_token(ask.asker, "asker")
        except errors.WireError:
            self.ignored += 1
            return
        if ask.agent not in {"", self._agent} or ask.instance not in {"", self._instance}:
            return
        try:
            self._asks.put_nowait(ask)
        except asyncio.QueueFull:
            self.ignored += 1

    async def _answer(self, ask: CacheAsk) -> CacheAnswer:
        agent, instance = self._agent, self._instance
        if ask.what == "stats":
            tiers = (self._cache.stats(), *self._below())
            return CacheAnswer(agent=agent, instance=instance, tiers=tiers, ways=tuple(self._paid()))
        if ask.what == "top":
            return self._top(ask.limit)
        if ask.what == "get":
            entries = await self._find(ask)
            return CacheAnswer(
                agent=agent,
                instance=instance,
                entries=tuple(
                    [entry for key in entries[: ask.limit] for entry in await self._everywhere(key, values=ask.values)]
                ),
                more=len(entries) > ask.limit,
            )
        return CacheAnswer(agent=agent, instance=instance, gone=await self._evict(ask))

    def _below(self) -> Iterator[CacheStats]:
        """What this process had of the tiers that it shares; what those hold is not one process's to say."""
        if self._cache.tiers is None:
            return
        for tier, outcomes in self._cache.tiers.outcomes().items():
            asked = sum(outcomes.get(outcome, 0) for outcome in _MISSES)
            failed = sum(outcomes.get(outcome, 0) for outcome in _FAILURES)
            yield CacheStats(
                tier=tier, hits=outcomes.get("hit", 0), misses=asked, stale=0, joined=0, loads=0, load_errors=failed,
                kept=0, bytes=0, bytes_max=0, dropped={}, refused={}, notices=0, gaps=0, outcomes=outcomes,
            )  # fmt: skip

    def _top(self, limit: int) -> CacheAnswer:
        now = self._cache.monotonic()
        sampling = self._cache.sampling
        return CacheAnswer(
            agent=self._agent,
            instance=self._instance,
            entries=tuple(self._entry(hot.name) for hot in sampling.keys.top(now, limit)),
            evictors=tuple(Evictor(tag=hot.name, entries=hot.count) for hot in sampling.evictors.top(now, limit)),
        )

    async def _find(self, ask: CacheAsk) -> list[Hashable]:
        """Keys that fit, those asked for most first: one more than are wanted, at most."""
        found: list[Hashable] = []
        for number, key in enumerate(self._candidates()):
            if number % _PIECE == _PIECE - 1:
                await asyncio.sleep(0)
            if self._fits(key, ask):
                found.append(key)
                if len(found) > ask.limit:
                    break
        return found

    def _candidates(self) -> Iterator[Hashable]:
        hot = [hot.name for hot in self._cache.sampling.keys.top(self._cache.monotonic())]
        yield from hot
        known = set(hot)
        yield from (key for key in self._cache.l1.keys() if key not in known)  # noqa: SIM118 - not a dict

    def _fits(self, key: Hashable, ask: CacheAsk) -> bool:
        entry = self._cache.l1.look(key)
        if entry is None or (ask.tags and not set(ask.tags).intersection(entry.tags)):
            return False
        return not ask.keys or fnmatchcase(shown(key), ask.keys)

    async def _evict(self, ask: CacheAsk) -> int:
        cache = self._cache
        gone = 0
        if ask.everything:
            gone += cache.evict_all(tell=False)
        elif ask.tags:
            gone += cache.evict(*ask.tags, tell=False)
        if ask.everything or ask.keys:
            # Also what is asked for and not here: it may lie in a tier below, or be on its way.
            for number, key in enumerate(self._candidates()):
                if number % _PIECE == _PIECE - 1:
                    await asyncio.sleep(0)
                if ask.everything or fnmatchcase(shown(key), ask.keys):
                    gone += cache.forget(key, tell=False)
        return gone

    async def _everywhere(self, key: Hashable, *, values: bool) -> list[HeldEntry]:
        """A key in L1 and in the tiers below."""
        found = [self._entry(key, values=values)]
        if self._functions is not None and isinstance(key, tuple):
            now = clock.unix()
            for tier, size, entry in await self._functions.below(key):
                found.append(HeldEntry(
                    key=shown(key), tier=tier, bytes=size, age_s=round(max(0.0, now - entry.loaded_at), 3),
                    fresh_s=round(entry.expires_at - now, 3), tags=entry.tags,
                ))  # fmt: skip
        return found

    def _entry(self, key: Hashable, *, values: bool = False) -> HeldEntry:
        now = self._cache.monotonic()
        reads = round(self._cache.sampling.keys.count(key, now), 1)
        if values:
            self._cache.moving.settle(key)  # what facts made of it meanwhile
        entry = self._cache.l1.look(key)
        if entry is None:
            return HeldEntry(key=shown(key), reads=reads)
        return HeldEntry(
            key=shown(key),
            reads=reads,
            bytes=entry.bytes,
            age_s=round(now - entry.since, 3),
            fresh_s=None if entry.expires == float("inf") else round(entry.expires - now, 3),
            tags=entry.tags,
            value=_began(entry.value) if values else None,
        )


def _began(value: object) -> str:
    """How a value begins, for a person."""
    try:
        return _shortened.repr(value)[: limits.CACHE_SHOWN_CHARS]
    except Exception as exc:  # noqa: BLE001 - a value's own repr may do anything
        return f"<{type(value).__name__}: {type(exc).__name__}>"
