"""One process's cache: what is served, shared, loaded and kept.

::

    read ──▶ fresh in L1? ──▶ served
              │ expired, may be stale? ──▶ served, and loaded anew behind it
              ▼
             somebody loads it, and nothing was evicted since that began? ──▶ wait for the same
              ▼
             load: generation noted ─▶ the loader ─▶ tables older than an eviction we know of? ─▶ again
              ▼
             evicted since it began? handed over : kept and handed over
              ▲
              └ by facts that move it on, all of them known? moved on, and kept

`coord.core.eviction` decides; here are the values, the waiting and the deadlines.  Exceptions and None are shared by
all who wait for one load: a failing database is asked once, not once a caller.

What this never does: serve anything that was evicted, not even where stale values are allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from coord import errors, limits
from coord.cache import entries, eras
from coord.cache.by_hand import ByHands
from coord.cache.config import CacheConfig
from coord.cache.counting import Counting
from coord.cache.keys import checked_tag
from coord.cache.memory import MISSING, MemoryCache
from coord.cache.moving import Moving, Way
from coord.cache.sampling import Sampling
from coord.cache.tier import Tier
from coord.cache.tiers import Found, Lease, Log, Tiers, Wanted
from coord.core.eviction import Evicted, Evictions, Marks, TagRules, Watermark, depends_on, is_behind
from coord.runtime import clock
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.telemetry.metrics import default as default_metrics
from coord.wire import notices
from coord.wire.cache_api import CacheStats

_log = logs.get("cache")

Loader: TypeAlias = Callable[[], Awaitable[Any]]


class Loaded(msgspec.Struct, frozen=True):
    """What a loader may return instead of the value: the value, and how far it goes."""

    value: Any
    marks: Marks | None = None
    """Up to where its snapshot of the tables goes (`coord.store.snapshots`)."""
    tags: tuple[str, ...] = ()
    """Besides those known before."""


class Warmed(msgspec.Struct, frozen=True):
    """What came of having a value before anybody asks."""

    bytes: int | None
    """It holds; None: it was not kept."""
    loaded: bool
    """By calling the loader, not from a tier below."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How one function is cached.  Times in seconds."""

    ttl_s: float
    negative_ttl_s: float
    timeout_s: float
    stale_while_revalidate_s: float = 0.0
    """An expired value is served for so long while it is loaded anew."""
    stale_if_error_s: float = 0.0
    """An expired value is served for so long when loading fails."""
    returns: type[Any] | tuple[type[Any], ...] | None = None
    shape: entries.Shape | None = None
    """Of answers that other processes share; None: they stay in this one."""
    shared_ttl_s: float | None = None
    """How long the tiers below L1 keep them; None: what has tags as long as these keep anything, else `ttl_s`."""
    way: Way | None = None
    """How facts move answers on; None: they evict them."""

    def shared_s(self, value: Any, tags: tuple[str, ...]) -> float:
        """How long the tiers below L1 keep an answer."""
        if value is None:
            return self.negative_ttl_s
        if self.shared_ttl_s is not None:
            return self.shared_ttl_s
        return limits.CACHE_L3_TTL_S if tags else self.ttl_s

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if self.ttl_s <= 0 or self.timeout_s <= 0:
            raise errors.SettingsError("cached: ttl_s and timeout_s must be positive")
        if self.shared_ttl_s is not None and self.shared_ttl_s <= 0:
            raise errors.SettingsError("cached: shared_ttl_s must be positive")
        if min(self.negative_ttl_s, self.stale_while_revalidate_s, self.stale_if_error_s) < 0:
            raise errors.SettingsError("cached: times must not be negative")


class Flight:
    """One load under way."""

    __slots__ = ("begun", "begun_at", "behind", "found", "future", "lease", "tags", "task", "wanted")

    def __init__(self, tags: tuple[str, ...], begun: int, future: asyncio.Future[Loaded]) -> None:
        self.tags = tags
        self.begun = begun
        """The generation in which what it will bring began to be loaded."""
        self.behind = False
        """What it has seen so far is older than what is known to be committed."""
        self.future = future
        self.task: asyncio.Task[None] | None = None
        self.wanted: Wanted | None = None
        """As the tiers below L1 know it; None: they are not asked."""
        self.found: Found | None = None
        """It was there."""
        self.lease: Lease | None = None
        """Other processes wait for this load."""
        self.begun_at = 0.0


class Cache:
    """See the module.  Not thread-safe; any number of tasks of one event loop may use it."""

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        metrics: Metrics | None = None,
        rng: random.Random | None = None,
        monotonic: Callable[[], float] | None = None,
        tiers: Sequence[Tier] = (),
        log: Log | None = None,
        wall: Callable[[], float] | None = None,
    ) -> None:
        """`tiers`: below L1, the nearest first; for functions that say of what shape their answers are.

        `log`: asked whether what they have from before this process began is current; without it that is not believed.
        """
        self.config: Final = config or CacheConfig()
        self.config.validate()
        self.counts = Counting(metrics, rng)
        rules = TagRules(self.config.tags)
        self.evictions = Evictions(rules)
        self.monotonic: Final = monotonic or clock.monotonic
        """Its clock, in seconds."""
        self.l1 = MemoryCache(
            bytes_max=self.config.l1_bytes,
            ttl=self.config.ttl_s,
            jitter=self.config.jitter,
            rng=rng,
            monotonic=monotonic,
            dropped=self.counts.dropped,
        )
        self.moving: Final = Moving(self.l1, self.evictions, rules, self.counts)
        """What facts make of what is kept."""
        self.sampling = Sampling(self.l1, metrics or default_metrics(), self.monotonic, "l1")
        """What is asked for most, and what evicts most."""
        self.counts.sampled, self.counts.missed = self.sampling.hit, self.sampling.missed
        self.tiers: Final = self._below(tiers, log, metrics or default_metrics(), wall) if tiers else None
        self.by_hand: Final = ByHands(self.tiers, keys=self.l1.keys, forget=self._forget, evict=self._evict_by_hand)
        """What other processes are told, and tell."""
        self._pardon_at = float("inf")
        self._rng = rng or random.Random()
        self._flights: dict[Hashable, Flight] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._refreshing: set[Hashable] = set()
        self._slots = asyncio.Semaphore(self.config.loads_max)
        self._waiting: list[tuple[Watermark, asyncio.Future[None]]] = []
        self._closed = False

    def _below(
        self, tiers: Sequence[Tier], log: Log | None, metrics: Metrics, wall: Callable[[], float] | None
    ) -> Tiers:
        return Tiers(tiers, self.evictions, self.config.tags, metrics, log=log, monotonic=self.monotonic, wall=wall)

    # --- what is heard -------------------------------------------------------------------

    def connected(self) -> None:
        """Notices arrive from now on."""
        self.moving.lost()
        self._evict(self.evictions.connected())
        if self.tiers is not None:
            self.tiers.eras.doubt()  # nobody may have heard what was said meanwhile

    def disconnected(self) -> None:
        """Notices may be missed: drop what only they could have evicted."""
        self.moving.lost()
        self._evict(self.evictions.disconnected())

    def hear(self, body: bytes) -> None:
        """A notice for this tenant."""
        try:
            notice = notices.decode(body)
        except errors.WireError:
            self.counts.unreadable()
            return
        self.counts.notice()
        evicted = self.evictions.notice(notice)
        spared = self.moving.notice(notice, evicted)
        for one in evicted:
            self._evict(one, spared)
        self._tell()

    def hear_fact(self, subject: bytes, headers: bytes, body: bytes) -> None:
        """A fact of this tenant, as the broker republishes it, for what facts move on."""
        self.moving.hear(subject, headers, body)

    def hear_beat(self, body: bytes) -> None:
        """A notice for everybody."""
        try:
            notice = notices.decode(body)
        except errors.WireError:
            self.counts.unreadable()
            return
        evicted = self.evictions.beat(notice)
        if evicted is not None:
            self._evict(evicted)
            self.moving.beat(notice)
        self._tell()
        self.counts.publish_now_and_then(self.l1)

    def evict(self, *tags: str, tell: bool = True) -> int:
        """Drop what has one of these tags, and keep no load of it that is under way; how many entries went.

        `tell`: also in the other processes of the tenant, in milliseconds where this one may tell them.
        """
        checked = [checked_tag(tag) for tag in tags]
        if self.tiers is not None:
            self.tiers.evict([eras.of_tag(tag) for tag in checked])
        if tell:
            self.by_hand.tell(checked)
        return self._evict_by_hand(checked)

    def evict_all(self, *, tell: bool = True) -> int:
        """Drop all that has tags; how many entries went.  `tell`: as of `evict`."""
        if self.tiers is not None:
            self.tiers.evict((eras.TAGGED,))
        if tell:
            self.by_hand.tell(everything=True)
        return self._evict_by_hand(None)

    def _evict_by_hand(self, tags: Collection[str] | None) -> int:
        """None: all that has tags."""
        return self._evict(self.evictions.manual_all() if tags is None else self.evictions.manual(tags))

    def forget(self, key: Hashable, *, tell: bool = True) -> bool:
        """Drop what is under one key, and keep no load of it that is under way; whether there was something.

        `tell`: as of `evict`.
        """
        with contextlib.suppress(errors.InvalidCacheKey):  # then it is in no tier, and nobody else can be told of it
            said = entries.key_bytes(key)
            if self.tiers is not None:
                self.tiers.evict((eras.of_key(said),))
            if tell:
                self.by_hand.tell(keys=(said,))
        return self._forget(key)

    def _forget(self, key: Hashable) -> bool:
        self._flights.pop(key, None)
        self.evictions.manual_key(key)
        self._remember()
        return self.l1.drop(key)

    def _remember(self) -> None:
        """What was evicted by hand is not believed of others' watermarks, as long as these may be about."""
        self._pardon_at = self.monotonic() + limits.CACHE_L3_TTL_S

    def _evict(self, evicted: Evicted, spared: Collection[Hashable] = ()) -> int:
        l1 = self.l1
        if evicted.everything:
            gone = l1.drop_where(lambda _tag: True, evicted.reason)
            self._sampled("everything", evicted.reason, gone)
        elif evicted.source is not None:
            source = evicted.source
            gone = l1.drop_where(lambda tag: depends_on(tag, source), evicted.reason)
            self._sampled(f"{source[0]} {source[1]}", evicted.reason, gone)
        else:
            gone = 0
            for tag in evicted.tags:
                dropped = l1.drop_tags((tag,), evicted.reason, spared)
                if dropped:
                    gone += dropped
                    self.sampling.evicted(tag, dropped)
        if evicted.reason in {"gap", "session"}:
            self.counts.gap()
        elif evicted.reason == "manual":
            self._remember()
        if self.monotonic() >= self._pardon_at:
            self._pardon_at = float("inf")
            self.evictions.pardon()
        return gone

    def _sampled(self, what: str, reason: str, gone: int) -> None:
        if gone:
            self.sampling.evicted(f"({reason}: {what})", gone)

    # --- reading -------------------------------------------------------------------------

    async def read(
        self,
        key: Hashable,
        tags: tuple[str, ...],
        load: Loader,
        policy: Policy,
        min_watermark: Watermark | None = None,
    ) -> Any:
        """The value under `key`, from here or from `load`.

        `min_watermark`: it must have seen this fact; waits for the tables, bounded.  Raises what the loader raised,
        `LoadTimeout`, `WrongType`, `TablesBehind`, `Overloaded`, `CacheClosed`.
        """
        if self._closed:
            raise errors.CacheClosed
        if min_watermark is not None:
            return await self._read_at(key, tags, load, policy, min_watermark)
        self.moving.settle(key)
        entry = self.l1.entry(key)
        if entry is not None:
            late_s = self.monotonic() - entry.expires
            if late_s < 0:
                self.counts.hit(key)
                return entry.value
            if late_s < policy.stale_while_revalidate_s:
                self.counts.stale("revalidate")
                self._refresh(key, tags, load, policy)
                return entry.value
        self.counts.miss(key)
        try:
            return (await self._shared(key, tags, load, policy)).value
        except (errors.CacheClosed, asyncio.CancelledError):
            raise
        except Exception:
            entry = self.l1.entry(key)
            if entry is None or self.monotonic() - entry.expires >= policy.stale_if_error_s:
                raise
            self.counts.stale("error")
            return entry.value

    def peek(self, key: Hashable, default: Any = None) -> Any:
        """The fresh value under `key` if it is here, without awaiting and without loading; else `default`."""
        found = self.l1.peek(key, MISSING)
        if found is not MISSING:
            return found
        self.moving.settle(key)
        return self.l1.read(key, default)

    async def _read_at(
        self, key: Hashable, tags: tuple[str, ...], load: Loader, policy: Policy, wanted: Watermark
    ) -> Any:
        """`read`, of tables that have a certain fact."""
        deadline = self.monotonic() + self.config.watermark_wait_s
        # Where nothing is heard of that partition the tables know sooner than the next notice tells.
        reached = self.evictions.hears(wanted.source) and await self._reached(wanted, deadline)
        if reached and tags:
            # What the fact's commit evicts is evicted, or moved on: what is here now has seen it.
            self.moving.settle(key)
            entry = self.l1.entry(key)
            if entry is not None and entry.expires > self.monotonic():
                self.counts.hit(key)
                return entry.value
        self.counts.miss(key)
        delay_s = limits.CACHE_BEHIND_FIRST_S
        while True:
            loaded = await self._shared(key, tags, load, policy, alone=not tags or not reached)
            if loaded.marks is None:
                if reached:
                    return loaded.value
                if not await self._reached(wanted, deadline):  # nothing else can tell
                    raise errors.TablesBehind(key=wanted.key, seq=wanted.seq)
                reached = True
                continue
            if self.evictions.has(loaded.marks.get(wanted.source, (0, 0)), wanted):
                return loaded.value
            if self.monotonic() + delay_s > deadline:
                raise errors.TablesBehind(key=wanted.key, seq=wanted.seq)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, limits.CACHE_BEHIND_MAX_S)
            reached = self.evictions.is_reached(wanted)

    async def _reached(self, wanted: Watermark, deadline: float) -> bool:
        """Wait until it is known to be committed; False when time is up."""
        if self.evictions.is_reached(wanted):
            return True
        waiting = (wanted, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            await asyncio.wait({waiting[1]}, timeout=max(0.0, deadline - self.monotonic()))
        finally:
            self._waiting.remove(waiting)
        return self.evictions.is_reached(wanted)

    def _tell(self) -> None:
        for wanted, told in self._waiting:
            if not told.done() and self.evictions.is_reached(wanted):
                told.set_result(None)

    # --- loading -------------------------------------------------------------------------

    async def _shared(
        self, key: Hashable, tags: tuple[str, ...], load: Loader, policy: Policy, *, alone: bool = False
    ) -> Loaded:
        """What a load brings: the one under way, if what it brings is as good as what one beginning now would."""
        came = self.evictions.generation
        flight = self._joinable(key, tags, alone=alone)
        if flight is None:
            wanted = None if alone else self._wanted(key, tags, policy)
            await self._slot()
            # Meanwhile somebody else may have begun.
            flight = self._joinable(key, tags, alone=alone)
            if flight is None:
                flight = self._start(key, tags, load, policy, wanted)
            else:
                self._slots.release()
                self.counts.joined()
        else:
            self.counts.joined()
        loaded = await asyncio.shield(flight.future)
        if loaded.tags and flight.begun < came and not self.evictions.is_current(loaded.tags, flight.begun):
            # Only the loader knew these tags: what was evicted before this caller came is not for him.
            return await self._shared(key, tags, load, policy, alone=alone)
        return loaded

    def _joinable(self, key: Hashable, tags: tuple[str, ...], *, alone: bool) -> Flight | None:
        flight = None if alone else self._flights.get(key)
        if flight is None or flight.future.done() or not self.evictions.is_current(flight.tags + tags, flight.begun):
            return None
        return flight

    async def _slot(self) -> None:
        try:
            async with asyncio.timeout(limits.CACHE_LOADS_WAIT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise errors.Overloaded("too many loads are under way", loads_max=self.config.loads_max) from None
        if self._closed:
            self._slots.release()
            raise errors.CacheClosed

    def _start(
        self, key: Hashable, tags: tuple[str, ...], load: Loader, policy: Policy, wanted: Wanted | None
    ) -> Flight:
        """Begin a load, with a slot that its end gives back."""
        loop = asyncio.get_running_loop()
        flight = Flight(tags, self.evictions.generation, loop.create_future())
        flight.future.add_done_callback(_retrieve)
        flight.wanted = wanted
        self._flights[key] = flight
        flight.task = loop.create_task(self._fly(key, flight, load, policy), name="coord-cache-load")
        self._running.add(flight.task)
        flight.task.add_done_callback(lambda task: self._landed(key, flight, task))
        # Not by cancelling alone: a loader may refuse that, and its callers are promised a deadline.
        ends = loop.call_later(policy.timeout_s, self._overdue, flight, policy)
        flight.future.add_done_callback(lambda _: ends.cancel())
        return flight

    def _refresh(self, key: Hashable, tags: tuple[str, ...], load: Loader, policy: Policy) -> None:
        """Load behind a stale value's back, unless somebody does or all slots are taken."""
        if key not in self._refreshing and self._joinable(key, tags, alone=False) is None and not self._slots.locked():
            self._refreshing.add(key)
            task = asyncio.get_running_loop().create_task(
                self._refreshed(key, tags, load, policy), name="coord-cache-refresh"
            )
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def warm(self, key: Hashable, tags: tuple[str, ...], load: Loader, policy: Policy, way: str) -> Warmed | None:
        """Have the value before anybody asks, from a tier below or by loading it; who reads it first is told of.

        None: it is here or on its way, or could not be kept now, and nothing was done.  Raises what `read` raises.
        """
        entry = self.l1.look(key)
        if (
            self._closed
            or (entry is not None and entry.expires > self.monotonic())
            or key in self._flights
            or self._slots.locked()
            or (tags and not self.evictions.is_vouched)
        ):
            return None
        wanted = self._wanted(key, tags, policy)
        await self._slot()
        if key in self._flights:  # meanwhile somebody asked
            self._slots.release()
            return None
        flight = self._start(key, tags, load, policy, wanted)
        await asyncio.shield(flight.future)
        return Warmed(self.l1.set_aside(key, way), flight.found is None)

    async def _refreshed(self, key: Hashable, tags: tuple[str, ...], load: Loader, policy: Policy) -> None:
        try:
            await self._shared(key, tags, load, policy)
        except Exception:  # noqa: BLE001, S110 - counted where it was raised; the stale value is what there is
            pass
        finally:
            self._refreshing.discard(key)

    async def _fly(self, key: Hashable, flight: Flight, load: Loader, policy: Policy) -> None:
        begun_at = flight.begun_at = self.monotonic()
        try:
            loaded = await self._found_or_loaded(flight, load, policy)
        except Exception as exc:  # noqa: BLE001 - whoever waits gets it
            self.counts.failed(exc)
            self._end_lease(flight, exc)
            _fail(flight, exc)
        else:
            # Nothing awaits from here on: what is decided is decided about the present.
            if self._flights.get(key) is flight:  # else one that began later brings what is newer
                self._keep_if_possible(key, flight, loaded, policy)
            if not flight.future.done():
                flight.future.set_result(loaded)
        finally:
            self._end_lease(flight)
            if flight.found is None:
                self.counts.loaded(self.monotonic() - begun_at)

    def _landed(self, key: Hashable, flight: Flight, task: asyncio.Task[None]) -> None:
        """However it ended, or if it was cancelled before it began."""
        _fail(flight, errors.CacheClosed("the load was cancelled"))
        self._running.discard(task)
        if self._flights.get(key) is flight:
            del self._flights[key]
        self._slots.release()
        self.counts.publish_now_and_then(self.l1)

    async def _found_or_loaded(self, flight: Flight, load: Loader, policy: Policy) -> Loaded:
        """From the tiers below, if one has it and it is proved current; else by loading, one process of the fleet."""
        tiers, wanted = self.tiers, flight.wanted
        if tiers is not None and wanted is not None:
            found: Found | Lease | None = await tiers.find(wanted)
            if (
                found is None
                and wanted.eras is not None
                and self.evictions.may_keep(wanted.tags, self.evictions.generation)
            ):
                found = await tiers.lead(wanted)
            if isinstance(found, Found):
                if not found.is_fresh:
                    # Nothing awaits from here until it is kept: it is current as of now.
                    flight.begun = self.evictions.generation
                flight.found = found
                return Loaded(found.value, None, found.tags)
            flight.lease = found
        flight.begun_at = self.monotonic()
        return await self._load(flight, load, policy)

    def _wanted(self, key: Hashable, tags: tuple[str, ...], policy: Policy) -> Wanted | None:
        if self.tiers is None or policy.shape is None:
            return None
        return self.tiers.wanted(key, tags, policy.shape, policy.timeout_s)

    def _end_lease(self, flight: Flight, error: Exception | None = None) -> None:
        lease, flight.lease = flight.lease, None
        if lease is not None and self.tiers is not None:
            self.tiers.end(lease, error)

    async def _load(self, flight: Flight, load: Loader, policy: Policy) -> Loaded:
        """Until the tables it reads have all that is known to be committed of its tags."""
        delay_s = limits.CACHE_BEHIND_FIRST_S
        tags = flight.tags
        while True:
            flight.begun = self.evictions.generation
            required = self.evictions.required(tags) if tags else {}
            found = await load()
            loaded = found if isinstance(found, Loaded) else Loaded(found)
            if loaded.marks is None:
                break
            if new := tuple(tag for tag in map(checked_tag, loaded.tags) if tag not in tags):
                # Known only now.  Another load knows them as it begins: what is evicted all the time is not behind.
                required = {**required, **self.evictions.required((*tags, *new))}
                tags += new
            if not is_behind(loaded.marks, required):
                break
            flight.behind = True
            self.counts.behind()
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, limits.CACHE_BEHIND_MAX_S)
        if loaded.value is not None and policy.returns is not None and not isinstance(loaded.value, policy.returns):
            raise errors.WrongType(f"the loader returned a {type(loaded.value).__name__}")
        return loaded

    def _keep_if_possible(self, key: Hashable, flight: Flight, loaded: Loaded, policy: Policy) -> None:
        """What cannot be kept is no failure of loading: whoever waits gets it."""
        try:
            self._keep(key, flight, loaded, policy)
        except Exception as exc:  # noqa: BLE001 - a loader's tags may be anything, and a key longer than is taken
            self.counts.refused("invalid")
            _log.warning("cache.not_kept", error=exc)

    def _keep(self, key: Hashable, flight: Flight, loaded: Loaded, policy: Policy) -> None:
        ttl_s = policy.negative_ttl_s if loaded.value is None else policy.ttl_s
        if ttl_s <= 0 or self._closed:
            return
        tags = flight.tags
        if loaded.tags:
            tags = tuple(dict.fromkeys((*tags, *map(checked_tag, loaded.tags))))[: limits.CACHE_TAGS_MAX + 1]
        if len(tags) > limits.CACHE_TAGS_MAX:
            self.counts.refused("tags")
            return
        standing = None
        if policy.way is not None and self.evictions.is_vouched:
            marks = loaded.marks if flight.found is None else flight.found.marks
            caught_up = self.moving.catch_up(loaded.value, tags, marks, policy.way)
            if caught_up is not None and self.evictions.is_pardoned((key, *tags), flight.begun):
                # As good as one loaded now: what it lacked of facts is in it, and nothing else evicted it.
                value, standing = caught_up
                loaded = msgspec.structs.replace(loaded, value=value)
        if standing is None and not self.evictions.may_keep(tags, flight.begun):
            self.counts.refused("overtaken" if self.evictions.is_vouched else "unvouched")
        else:
            stale_s = max(policy.stale_while_revalidate_s, policy.stale_if_error_s)
            if flight.found is not None:
                ttl_s = min(ttl_s, flight.found.ttl_s)
            age_s = 0.0 if flight.found is None else flight.found.age_s
            kept = self.l1.keep(
                key, loaded.value, ttl_s=ttl_s, stale_s=stale_s, tags=tags, age_s=age_s,
                moving=standing, beside=0 if standing is None else standing.bytes,
            )  # fmt: skip
            # What is too large for L1 was not even counted to its end: to make bytes of it would hold everybody up.
            if kept and flight.found is None and flight.wanted is not None:
                self._store(flight, flight.wanted, loaded, tags, policy)

    def _store(self, flight: Flight, wanted: Wanted, loaded: Loaded, tags: tuple[str, ...], policy: Policy) -> None:
        """What L1 has just kept, for other processes, too."""
        assert self.tiers is not None
        lease, flight.lease = flight.lease, None
        ttl_s = policy.shared_s(loaded.value, tags) * (1 - self.config.jitter * self._rng.random())
        took_s = self.monotonic() - flight.begun_at
        self.tiers.store(wanted, loaded.value, tags, loaded.marks, took_s=took_s, ttl_s=ttl_s, lease=lease)

    def _overdue(self, flight: Flight, policy: Policy) -> None:
        late = errors.TablesBehind if flight.behind else errors.LoadTimeout
        _fail(flight, late(timeout_s=policy.timeout_s))
        self._end_lease(flight)  # also where the loader goes on: others wait for nothing
        assert flight.task is not None
        flight.task.cancel()

    def stats(self) -> CacheStats:
        """What it holds and what it did."""
        return self.counts.stats(self.l1)

    # --- the end -------------------------------------------------------------------------

    async def close(self) -> None:
        """Drop everything and end what is under way; whoever waits gets `CacheClosed`.  Twice is legal."""
        self._closed = True
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            # A loader that refuses to be cancelled is not waited for.
            await asyncio.wait(running, timeout=limits.CACHE_LOADS_WAIT_S)
        await self.by_hand.close()
        if self.tiers is not None:
            await self.tiers.close()
        await self.l1.clear()
        await self.l1.close()
        self.counts.publish(self.l1)


def _fail(flight: Flight, error: Exception) -> None:
    if not flight.future.done():
        flight.future.set_exception(error)


def _retrieve(future: asyncio.Future[Loaded]) -> None:
    """Nobody may be left who waits."""
    if not future.cancelled():
        future.exception()
