"""The tiers below L1, which processes share: what is found there, whose turn it is to load, what is stored.

::

    find:  L2, then L3 ──▶ readable, of this key, fresh, with our tags, proved current? ──▶ served, and kept in L1
    lead:  nothing there ──▶ a lease in L2: one process of the fleet loads, the others look for what it stores
    store: what may be kept is kept here, too, behind the caller's back

**Never old.**  An entry says up to where it has seen the log.  It is believed where this process can prove that it has
everything evicted since (`coord.core.eviction`); one that was evicted in L1 cannot come back from here.

**Never in the way.**  A tier has `limits.CACHE_TIER_S` to answer, and a circuit in front of it: one that is away costs
some callers so long, then nobody anything.  What cannot be read is counted and dropped.  A lease is a courtesy: its
holder renews it while it loads, and who has seen nothing of it for `limits.CACHE_LEASE_S` takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from coord import errors, limits
from coord.cache import entries, eras
from coord.cache.entries import Entry, Shape
from coord.cache.eras import Eras
from coord.cache.tier import Held, Tier
from coord.core import proving
from coord.core.eviction import BEGINNING, Evictions, Marks, is_behind, sources_of
from coord.core.proving import LogEnds
from coord.runtime import clock
from coord.runtime.circuit import Circuit
from coord.telemetry.metrics import Metrics

T = TypeVar("T")
A = TypeVar("A")

_LED: Final = b"L"
"""A lease; its token follows, of this and of the next two.  Then what its holder's loader raised."""
_DONE: Final = b"D"
_NOTHING: Final = b"N"
"""It ended without an answer that can be shared."""
_FAILED: Final = b"F"
_TOKEN_BYTES: Final = 8
_LEASE_TTL_S: Final = 2 * limits.CACHE_LEASE_S
_ENDED_TTL_S: Final = 1.0
_RENEWALS: Final = 3
"""Of a lease, in the time after which its holder is taken for dead."""


class Log(Protocol):
    """Who can say whether there is a fact behind what an answer has seen (`coord.core.proving`)."""

    tenant: str

    async def ends(self, filters: Collection[str], /) -> LogEnds:
        """Where the log ends, under each of the filters."""


class Wanted(msgspec.Struct, eq=False):
    """One answer, as the tiers know it."""

    key: Hashable
    said: bytes
    """The key as bytes,"""
    name: str
    """and what the answer is stored under."""
    tags: tuple[str, ...]
    shape: Shape
    load_s: float
    """What loading it may take."""
    eras: Mapping[str, str] | None = None
    """Those before it was looked for; None: they are not known, and the tiers are not used."""

    @property
    def ask_s(self) -> float:
        """What a tier may take to answer: of all that is asked before a load, half of its time is left for that."""
        return min(limits.CACHE_TIER_S, self.load_s / 8)


class Found(msgspec.Struct, frozen=True, eq=False):
    """An answer that is current now: nothing may be awaited before it is kept or served."""

    value: Any
    tags: tuple[str, ...]
    ttl_s: float
    marks: Marks
    age_s: float
    """Since its load began, by the clocks of whoever loaded it and of this process."""
    is_fresh: bool = False
    """Its load began after it was asked for here: as good as a load of this process that began then, no more."""


class Lease:
    """This process loads, and others of the fleet wait: `Tiers.end` it."""

    __slots__ = ("ended", "name", "renewing", "seq", "token")

    def __init__(self, name: str, seq: int, token: bytes) -> None:
        self.name = name
        self.token = token
        """Which load it is of; no other has it."""
        self.seq = seq
        """The last write of it."""
        self.ended = asyncio.Event()
        self.renewing: asyncio.Task[None] | None = None


class _Guarded(Generic[A]):
    """One tier, or the log, with its circuit and what is counted of it."""

    def __init__(self, name: str, it: A, metrics: Metrics, now: Callable[[], float]) -> None:
        self.name = name
        self.it = it
        self.outcomes: dict[str, int] = {}
        self.looked_at = float("-inf")
        self._metrics = metrics
        self._seconds = metrics.cache_load_seconds.labels(tier=name)
        self._now = now
        self._circuit = Circuit(f"cache_{name}", counts=(errors.CoordError,), metrics=metrics, now=now)

    def served(self, age_s: float) -> None:
        """An answer was found here."""
        self.count("hit")
        self._metrics.cache_age_seconds.labels(tier=self.name).observe(age_s)

    def holds(self, held: int | None) -> None:
        """So many bytes, where it says so."""
        if held is not None:
            self._metrics.cache_bytes.labels(tier=self.name).set(held)

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self._metrics.cache_lookups.labels(self.name, outcome).inc()

    async def ask(self, question: Callable[[], Awaitable[T]], within_s: float | None = None) -> T:
        """Its answer in time; raises `CoordError`, which is counted."""
        within_s = limits.CACHE_TIER_S if within_s is None else within_s
        try:
            with self._circuit.guard():
                try:
                    began = self._now()
                    async with asyncio.timeout(within_s):
                        answer = await question()
                    self._seconds.observe(self._now() - began)
                    return answer
                except TimeoutError as exc:
                    raise errors.DeadlineExceeded(f"no answer from {self.name}") from exc
        except errors.CircuitOpen:
            self.count("away")
            raise
        except errors.CoordError:
            self.count("error")
            raise


class Tiers:
    """See the module.  `close` it before what the tiers are made of."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        evictions: Evictions,
        rules: Mapping[str, tuple[str, ...]],
        metrics: Metrics,
        *,
        log: Log | None = None,
        monotonic: Callable[[], float],
        wall: Callable[[], float] | None = None,
    ) -> None:
        self._tiers = [_Guarded(tier.name, tier, metrics, monotonic) for tier in tiers]
        self._log = None if log is None else _Guarded("log", log, metrics, monotonic)
        self._evictions = evictions
        self._rules = rules
        self._rules_fingerprint = entries.rules_fingerprint(rules)
        self._monotonic = monotonic
        self._wall = wall or clock.unix
        self._writer = secrets.token_hex(8)
        last = self._tiers[-1]  # it keeps for longest
        self.eras = Eras(last.it, last.ask, monotonic=monotonic, wall=self._wall)
        """Of what is evicted by hand."""
        self._tasks: set[asyncio.Task[bool]] = set()
        self._renewing: set[asyncio.Task[None]] = set()
        self._closed = False

    def outcomes(self) -> dict[str, dict[str, int]]:
        """Of each tier what came of asking it.

        Of looking: hit, miss, evicted, unproven, expired, tags, damaged.  Of storing: stored, again, too_large,
        unfaithful, shed.  Of both: joined (another process loads), error, away.
        """
        return {one.name: dict(one.outcomes) for one in self._tiers}

    def wanted(self, key: Hashable, tags: tuple[str, ...], shape: Shape, load_s: float) -> Wanted:
        """Raises `InvalidCacheKey`."""
        said = entries.key_bytes(key)
        return Wanted(key, said, entries.name_of(said, shape, self._rules_fingerprint), tags, shape, load_s)

    # --- finding -------------------------------------------------------------------------

    async def find(self, wanted: Wanted, fresh: bytes = b"") -> Found | None:
        """The answer, current as of now; None: no tier has it, or none that this process can prove to be.

        `fresh`: the token of a lease that was taken after this process asked.  What was loaded under that is as good
        as what this process would load itself.
        """
        if wanted.tags and not self._evictions.is_vouched:
            return None
        if wanted.eras is None:
            if not await self.eras.known(wanted.ask_s):
                return None
            wanted.eras = self.eras.now
        for level, one in enumerate(self._tiers):
            try:
                held = await one.ask(partial(one.it.get, wanted.name), wanted.ask_s)
            except errors.CoordError:
                continue
            entry = self._entry(wanted, held)
            found = entry if isinstance(entry, str) else self._judged(wanted, entry, entry.places())
            if found == "unproven" and isinstance(entry, Entry) and self._log is not None:
                found = await self._proved(self._log, wanted, entry)
            if isinstance(entry, Entry) and fresh and entry.lease == fresh and not isinstance(found, Found):
                as_loaded = self._as_loaded(wanted, entry)
                if as_loaded is not None:
                    one.served(as_loaded.age_s)
                    return as_loaded
            if isinstance(found, Found):
                assert held is not None
                one.served(found.age_s)
                assert isinstance(entry, Entry)
                self._put_again(level, wanted, held, entry, found)
                return found
            one.count(found)
            if found == "damaged":
                self._spawn(one, partial(one.it.drop, wanted.name))
        return None

    async def look(self, wanted: Wanted) -> list[tuple[str, int, Entry]]:
        """Tier, bytes and entry wherever it lies now, be it current or not; for whoever looks into caches."""
        found = []
        for one in self._tiers:
            try:
                held = await one.ask(partial(one.it.get, wanted.name), wanted.ask_s)
            except errors.CoordError:
                continue
            entry = self._entry(wanted, held)
            if held is not None and isinstance(entry, Entry):
                found.append((one.name, len(held.body), entry))
        return found

    def _entry(self, wanted: Wanted, held: Held | None) -> Entry | str:
        """The entry, if it is the one that is wanted; else why not."""
        if held is None or not held.body:
            return "miss"
        try:
            entry = entries.decode(held.body)
        except errors.CacheEntryDamaged:
            return "damaged"
        if entry.key != wanted.said:
            return "miss"
        if not all(0 < len(tag) <= limits.CACHE_TAG_BYTES_MAX for tag in entry.tags):
            return "damaged"
        if entry.expires_at <= self._wall():
            return "expired"
        if not set(wanted.tags) <= set(entry.tags):
            return "tags"
        return entry

    def _judged(self, wanted: Wanted, entry: Entry, marks: Marks) -> Found | str:
        """The answer, if it is current; else why not.  `marks`: up to where it has seen the log."""
        if entry.eras != eras.digest(self.eras.now, wanted.said, entry.tags):
            return "evicted"
        if not self._evictions.proves(entry.tags, marks):
            return "evicted" if self._evictions.is_evicted(entry.tags, marks) else "unproven"
        return self._read(wanted, entry, marks) or "damaged"

    def _read(self, wanted: Wanted, entry: Entry, marks: Marks, *, is_fresh: bool = False) -> Found | None:
        try:
            value = wanted.shape.decode(entry.value) if entry.value else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        now = self._wall()
        age_s = max(0.0, now - entry.loaded_at)
        return Found(value, entry.tags, entry.expires_at - now, marks, age_s, is_fresh)

    def _as_loaded(self, wanted: Wanted, entry: Entry) -> Found | None:
        """The answer as if this process had loaded it: under the eras it knows, from tables that are not behind."""
        if entry.eras != eras.digest(self.eras.now, wanted.said, entry.tags):
            return None
        marks = entry.places()
        required = self._evictions.required(entry.tags)
        if is_behind(marks, {source: place for source, place in required.items() if source in marks}):
            return None
        return self._read(wanted, entry, marks, is_fresh=True)

    async def _proved(self, log: _Guarded[Log], wanted: Wanted, entry: Entry) -> Found | str:
        """The answer, if the log has nothing about its tags behind it."""
        heard, created = self._evictions.places(entry.tags), self._evictions.log(entry.tags)
        filters = proving.asked(entry.tags, log.it.tenant, self._rules)
        if filters:
            try:
                ends = await log.ask(partial(log.it.ends, tuple(filters)), wanted.ask_s)
            except errors.CoordError:
                return "unproven"
            if proving.is_proved(filters, ends, entry.places(), heard, created):
                log.count("hit")
                return self._judged(wanted, entry, heard)
            log.count("miss")
        return "unproven"

    def _put_again(self, level: int, wanted: Wanted, held: Held, entry: Entry, found: Found) -> None:
        """Where it would leave soon, or others would ask the log again; and in the tiers before that one."""
        name, ttl_s, body = wanted.name, found.ttl_s, held.body
        one = self._tiers[level]
        proved = found.marks != entry.places()
        if proved:
            body = entries.encode(msgspec.structs.replace(entry, marks=_flat(found.marks))) or body
        if proved or one.it.is_aging(held.seq):
            self._spawn(one, partial(one.it.put, name, body, ttl_s=ttl_s, over=held.seq), "again")
        for one in self._tiers[:level]:
            self._spawn(one, partial(one.it.put, name, body, ttl_s=ttl_s), "stored")

    # --- whose turn it is ----------------------------------------------------------------

    async def lead(self, wanted: Wanted) -> Lease | Found | None:
        """The lease to load, or what another process loaded meanwhile; None: load without one.

        Another process that loads is waited for: three quarters of what a load may take, at most, so that some of that
        is left.  Where its answer cannot be proved here, all who have waited try for the lease once more: the load that
        begins then began after each of them had asked, which is as good as one of their own.  Who has waited for
        nothing does not wait again.  Raises `LoadFailedElsewhere` when the other's loader raised.
        """
        one = self._tiers[0]
        name = f"{wanted.name}-lease"
        gives_up_at = self._monotonic() + 0.75 * wanted.load_s
        over, token, first = 0, secrets.token_bytes(_TOKEN_BYTES), b""
        try:
            while True:
                put = partial(one.it.put, name, _LED + token, ttl_s=_LEASE_TTL_S, over=over)
                if (seq := await one.ask(put, wanted.ask_s)) is not None:
                    return self._leased(one, Lease(name, seq, token), wanted.load_s)
                held, waited_for = await self._watched(one, name, wanted, gives_up_at)
                waited = bool(waited_for)
                said, whose = _lease_said(held)
                first = first or waited_for or whose
                if said == _FAILED and waited:
                    assert held is not None
                    raise _failure(held.body[1 + _TOKEN_BYTES :])
                # Taken after another had been there: after this process had asked.
                again = bool(whose) and whose != first
                if said == _DONE and (found := await self.find(wanted, whose if again else b"")) is not None:
                    return found
                if said == _NOTHING or (said == _DONE and again) or self._monotonic() >= gives_up_at:
                    return None
                # Its holder died, ended before we came, or what it loaded is not known to be current: our turn, or
                # another's who is faster.
                over = 0 if held is None else held.seq
        except errors.LoadFailedElsewhere:
            raise
        except errors.CoordError:
            return None

    async def _watched(
        self, one: _Guarded[Tier], name: str, wanted: Wanted, gives_up_at: float
    ) -> tuple[Held | None, bytes]:
        """What a lease came to: it, or one after it, ended, or its holder does not renew it any more.

        And its token, if it was waited for.
        """
        watched, until, delay_s, waited_for = -1, 0.0, limits.CACHE_LEASE_LOOK_FIRST_S, b""
        while True:
            held = await one.ask(partial(one.it.get, name), wanted.ask_s)
            if held is None or held.body[:1] != _LED:
                return held, waited_for
            if watched < 0:
                one.count("joined")
                waited_for = _lease_said(held)[1] or b"?"
            if held.seq != watched:
                watched, until = held.seq, self._monotonic() + limits.CACHE_LEASE_S
            if self._monotonic() >= min(until, gives_up_at):
                return held, waited_for
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, limits.CACHE_LEASE_LOOK_MAX_S)

    def _leased(self, one: _Guarded[Tier], lease: Lease, load_s: float) -> Lease:
        lease.renewing = asyncio.get_running_loop().create_task(
            self._renew(one, lease, self._monotonic() + load_s), name="coord-cache-lease"
        )
        self._renewing.add(lease.renewing)
        lease.renewing.add_done_callback(self._renewing.discard)
        return lease

    async def _renew(self, one: _Guarded[Tier], lease: Lease, until: float) -> None:
        """As long as this process loads, others can see that it lives."""
        with contextlib.suppress(errors.CoordError):
            while not lease.ended.is_set() and self._monotonic() < until:
                try:
                    async with asyncio.timeout(limits.CACHE_LEASE_S / _RENEWALS):
                        await lease.ended.wait()
                except TimeoutError:
                    put = partial(one.it.put, lease.name, _LED + lease.token, ttl_s=_LEASE_TTL_S, over=lease.seq)
                    seq = await one.ask(put)
                    if seq is None:
                        return  # another has taken it for dead
                    lease.seq = seq

    def end(self, lease: Lease, error: BaseException | None = None, *, stored: bool = False) -> None:
        """The load has ended; `stored`: with an answer that others can find."""
        body = (_DONE if stored else _NOTHING) + lease.token
        if isinstance(error, Exception):
            body = _FAILED + lease.token + msgspec.json.encode([getattr(error, "code", "loader"), type(error).__name__])
        lease.ended.set()
        one = self._tiers[0]

        async def say() -> None:
            if lease.renewing is not None:
                await asyncio.wait({lease.renewing})
            await one.it.put(lease.name, body, ttl_s=_ENDED_TTL_S, over=lease.seq)

        self._spawn(one, say)

    # --- by hand ---------------------------------------------------------------------------

    def evict(self, whats: Iterable[str]) -> None:
        """Evicted by hand (`coord.cache.eras`): what is held of them is a miss here from now on.

        Elsewhere when it is `recorded`, which it is before the tiers are used again.
        """
        self.eras.end(whats)

    async def recorded(self) -> bool:
        """Have it recorded; False: that takes longer."""
        return await self.eras.known(limits.CACHE_TIER_S)

    # --- storing -------------------------------------------------------------------------

    def store(
        self, wanted: Wanted, value: Any, tags: tuple[str, ...], marks: Marks | None, *, took_s: float, ttl_s: float,
        lease: Lease | None = None,
    ) -> None:  # fmt: skip
        """Have the tiers keep what may be kept now; behind the caller's back, then the lease ends."""
        token = b"" if lease is None else lease.token
        body = None
        if wanted.eras is not None:
            body = self._encoded(wanted, wanted.eras, value, tags, marks, took_s, ttl_s, token)
        first = None if body is None else self._spawn_all(wanted.name, body, ttl_s)
        if lease is None:
            return
        if first is None:
            self.end(lease)
        else:
            first.add_done_callback(lambda task: self.end(lease, stored=_is_done(task)))

    def _encoded(
        self, wanted: Wanted, known: Mapping[str, str], value: Any, tags: tuple[str, ...], marks: Marks | None,
        took_s: float, ttl_s: float, lease: bytes,
    ) -> bytes | None:  # fmt: skip
        said = b"" if value is None else wanted.shape.encode(value)
        if said is None:
            self._tiers[0].count("unfaithful")
            return None
        # It may be kept: of all that this process has heard of its tags nothing is newer.
        places = dict(self._evictions.places(tags))
        if marks is not None:
            # Also where nothing was heard: what the tables had is seen, and one without a checkpoint had nothing.
            for source in sources_of(tags):
                seen = marks.get(source, BEGINNING)
                places[source] = max(places.get(source, seen), seen)
        now = self._wall()
        body = entries.encode(
            Entry(
                key=wanted.said, tags=tags, marks=_flat(places),
                loaded_at=now - took_s, expires_at=now + ttl_s, writer=self._writer,
                eras=eras.digest(known, wanted.said, tags), packed=False, value=said, lease=lease,
            )
        )  # fmt: skip
        if body is None:
            self._tiers[0].count("too_large")
        return body

    def _spawn_all(self, name: str, body: bytes, ttl_s: float) -> asyncio.Task[bool] | None:
        """Put it into every tier; the first one's task."""
        tasks = [self._spawn(one, partial(one.it.put, name, body, ttl_s=ttl_s), "stored") for one in self._tiers]
        return tasks[0]

    # --- behind the caller's back --------------------------------------------------------

    def _spawn(
        self, one: _Guarded[Tier], question: Callable[[], Awaitable[object]], outcome: str = ""
    ) -> asyncio.Task[bool] | None:
        if self._closed or len(self._tasks) >= limits.CACHE_STORES_MAX:
            one.count("shed")
            return None
        task = asyncio.get_running_loop().create_task(self._ask(one, question, outcome), name="coord-cache-store")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, one: _Guarded[Tier], question: Callable[[], Awaitable[object]], outcome: str) -> bool:
        """Whether it was done."""
        done = False
        try:
            await one.ask(question)
            done = True
            if outcome:
                one.count(outcome)
            now = self._monotonic()
            if now - one.looked_at >= limits.CACHE_WINDOW_LOOK_S:
                one.looked_at = now
                one.holds(await one.ask(one.it.look))
        except errors.CoordError:
            pass  # counted; the answer is in L1
        return done

    async def close(self) -> None:
        """Let what is on its way arrive, briefly.  Twice is legal."""
        self._closed = True
        for renewing in tuple(self._renewing):
            renewing.cancel()
        if self._tasks:
            _, late = await asyncio.wait(tuple(self._tasks), timeout=2 * limits.CACHE_TIER_S)
            for task in late:
                task.cancel()


def _is_done(task: asyncio.Task[bool]) -> bool:
    return not task.cancelled() and task.exception() is None and task.result()


def _flat(marks: Marks) -> tuple[tuple[str, int, int, int], ...]:
    return tuple([(*source, *place) for source, place in marks.items()])


def _lease_said(held: Held | None) -> tuple[bytes, bytes]:
    """What a lease came to, and its token."""
    return (b"", b"") if held is None else (held.body[:1], held.body[1 : 1 + _TOKEN_BYTES])


def _failure(body: bytes) -> errors.LoadFailedElsewhere:
    try:
        code, name = msgspec.json.decode(body, type=tuple[str, str])
    except msgspec.MsgspecError:
        code, name = "loader", "?"
    return errors.LoadFailedElsewhere(other_code=code[:64], other_name=name[:64])
