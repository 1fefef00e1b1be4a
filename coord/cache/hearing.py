"""One tenant's cache in a process, and the subscriptions that keep it true.

``coord.notice.{tenant}.*`` names what was committed, ``coord.notice._.*`` says of each partition in which session its
notices are; both for all functions and keys together.  They are opened by the first call that needs them.

Kept is what has tags only while it is certain that notices arrive: after the broker has acknowledged the
subscriptions and the first thing was heard there, which takes `limits.CHECKPOINT_IDLE_S` at most where a projector
runs.  Where facts move answers on, they are heard as well, by kind; what of that is lost costs a load, no more.  A
connection that is lost, a slow consumer's too, which the broker cuts, drops what has tags; so does the
broker's refusal.

The connection is anything that is a `Line`: this layer knows no broker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from coord import errors, limits
from coord.cache.config import CacheConfig
from coord.cache.functions import EVERY_KIND, Functions
from coord.cache.loading import Cache
from coord.cache.tier import Tier
from coord.cache.tiers import Log
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.cache_api import ByHand, encode, told_by_hand

_log = logs.get("cache")

_Unregister: TypeAlias = Callable[[], None]


class Heard(Protocol):
    """A subscription."""

    async def unsubscribe(self) -> None:
        """Hear no more.  Twice is legal."""


class Line(Protocol):
    """What is wanted of a connection to the broker; `coord.bus.connection.Connection` is one."""

    @property
    def is_clustered(self) -> bool:
        """Whether what the broker acknowledges may take a moment to be known to its peers."""

    async def flush(self) -> None:
        """Return once the broker has taken everything asked of it before."""

    def publish(self, subject: str, body: bytes, /) -> None:
        """Send; raises `BusError`."""

    async def subscribe_bytes(self, subject: str, receiver: Callable[[bytes, bytes, bytes, bytes], None], /) -> Heard:
        """Have `receiver(subject, reply, headers, body)` called; outlives reconnects."""

    def on_connected(self, listener: Callable[[], None], /) -> _Unregister:
        """Call it after each reconnect."""

    def on_disconnected(self, listener: Callable[[], None], /) -> _Unregister:
        """Call it when the connection is lost."""

    def on_permission_denied(self, listener: Callable[[str], None], /) -> _Unregister:
        """Call it with a subject that the broker refuses."""


class Caching:
    """Of one tenant on one connection.  `close` it before the connection."""

    def __init__(
        self, conn: Line, tenant: str, config: CacheConfig | None, metrics: Metrics, tiers: Sequence[Tier] = (),
        log: Log | None = None,
    ) -> None:  # fmt: skip
        """`tiers`, `log`: as `Cache` takes them, of this tenant."""
        self.cache = Cache(config, metrics=metrics, tiers=tiers, log=log)
        self.functions = Functions(self.cache, self.open)
        self._conn = conn
        self._mine = subjects.notices(tenant)
        self._everybodys = subjects.notices(subjects.UNKNOWN)
        self._by_hand = told_by_hand(tenant)
        self._by_hand_bytes = self._by_hand.encode()
        self._may_tell = True
        self.cache.by_hand.say = self._tell_by_hand
        self._tenant = tenant
        self._subscriptions: list[Heard] = []
        self._facts: dict[str, Heard] = {}
        """Of each kind whose facts are heard."""
        self._opening = asyncio.Lock()
        self._opened = self._closed = self._denied = False
        self._confirming: asyncio.Task[None] | None = None
        self._unregister = [
            conn.on_disconnected(self._disconnected),
            conn.on_connected(self._connected),
            conn.on_permission_denied(self._refused),
        ]

    async def open(self) -> None:
        """Have notices heard; returns when that is asked of the broker.  Twice is legal."""
        if (not self._opened or len(self._facts) < len(self.functions.hears)) and not self._closed:
            async with self._opening:
                await self._hear_facts()
                await self._open_once()

    async def _hear_facts(self) -> None:
        """Of functions that were made since, too.  Nothing rests on when it begins: what is not heard evicts."""
        for kind in sorted(self.functions.hears - self._facts.keys()):
            subscription = await self._conn.subscribe_bytes(self._live(kind), self._handed_fact)
            if self._closed:
                await subscription.unsubscribe()
                return
            self._facts[kind] = subscription

    def _live(self, kind: str) -> str:
        return subjects.live_filter(self._tenant, kind=None if kind == EVERY_KIND else kind)

    def _handed_fact(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        if reply:  # a consumer's, with headers that are its author's alone; what is republished has none
            self.cache.counts.unreadable()
        else:
            self.cache.hear_fact(subject, headers, body)

    async def _open_once(self) -> None:
        if self._opened:
            return
        heard = ((self._mine, self.cache.hear), (self._everybodys, self.cache.hear_beat))
        for subject, hear in heard[len(self._subscriptions) :]:  # a try before this one may have had the first
            subscription = await self._conn.subscribe_bytes(subject, partial(self._handed, hear))
            if self._closed:  # meanwhile, by whom this one was not seen
                await subscription.unsubscribe()
                return
            self._subscriptions.append(subscription)
        self._opened = True
        self._connected()

    def _handed(self, hear: Callable[[bytes], None], subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        """A message's body to `hear`, if a projector, or another cache, may have sent it.

        Whoever may ask the broker for anything can have the answer sent here, by the reply subject, which no permission
        guards.  What is read out of a stream so has headers, or a reply subject to ack it; a notice has neither, and
        other answers of the broker are no notices.
        """
        if reply or headers:
            self.cache.counts.unreadable()
            return
        if subject == self._by_hand_bytes:
            if not self.cache.by_hand.hear(body):
                self.cache.counts.unreadable()
            return
        hear(body)

    def _tell_by_hand(self, said: ByHand) -> None:
        if self._may_tell and not self._closed:
            self._conn.publish(self._by_hand, encode(said))

    def _disconnected(self) -> None:
        self._denied = False  # whoever lets us in again may allow it
        self._may_tell = True
        self._stop_confirming()
        self.cache.disconnected()

    def _connected(self) -> None:
        if self._opened and not self._closed:
            self._stop_confirming()
            self._confirming = asyncio.get_running_loop().create_task(self._confirm(), name="coord-cache-confirm")

    async def _confirm(self) -> None:
        """Wait until the broker has the subscriptions; what is committed after that is heard."""
        while not self._denied:
            try:
                await self._conn.flush()
            except errors.CoordError:
                # Still the same connection, or this would have been cancelled.
                await asyncio.sleep(limits.RECONNECT_WAIT_S)
                continue
            if self._conn.is_clustered:
                await asyncio.sleep(limits.CACHE_SETTLE_S)
            if not self._denied:
                self.cache.connected()
            return

    def _refused(self, subject: str) -> None:
        if subject in {
            subjects.live_filter(self._tenant, kind=None if kind == EVERY_KIND else kind) for kind in self._facts
        }:
            _log.warning(
                "cache.facts_refused", subject=subject,
                remedy="allow the subscription: until then facts evict what they could move on",
            )  # fmt: skip
        if subject == self._by_hand:
            self._may_tell = False  # others find it in the record, where there are tiers
        if subject in {self._mine, self._everybodys} and not self._denied:
            self._denied = True
            _log.warning(
                "cache.notices_refused", subject=subject,
                remedy="allow the subscription: until then nothing that has tags is kept",
            )  # fmt: skip
            self.cache.disconnected()

    def _stop_confirming(self) -> None:
        if self._confirming is not None:
            self._confirming.cancel()
            self._confirming = None

    async def close(self) -> None:
        """Drop everything, hear no more.  Twice is legal."""
        self._closed = True
        for unregister in self._unregister:
            unregister()
        confirming = self._confirming
        self._stop_confirming()
        if confirming is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await confirming
        for subscription in (*self._subscriptions, *self._facts.values()):
            await subscription.unsubscribe()
        self._subscriptions.clear()
        await self.cache.close()
