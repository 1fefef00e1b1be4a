"""Says that this instance is there, what it can do and how it fares; and hears when it is asked or told.

::

    await c.beating.register(capabilities={"summarize": 8}, labels={"region": "eu"})
    c.beating.hold("my-lock")  # while anything is held: a heartbeat a second, else one in five or more
    await c.beating.drain()  # take no more; `rejoin` undoes it

`coord.Agent` and locks do this by themselves.  Heartbeats are core NATS messages that nobody
stores; only what changes is a fact: ``agent.registered``, ``draining``, ``left``.

Whoever holds something and does not beat loses it: an instance is gone after 2.5 missed
heartbeats, or at once when its process dies.  A program that blocks the event loop for seconds
is as good as hung, and is taken for it.

After a reconnect it beats at once, on a connection with a higher number: that keeps what it
holds, if it was away for less than `limits.DISCONNECT_GRACE_S`.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable, Hashable
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection, Unregister
from coord.client.discovery import Discovery
from coord.client.pushes import Pushes
from coord.client.stating import Stating
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import presence as wire
from coord.wire import subjects
from coord.wire.presence import Heartbeat, Quotas, Registration
from coord.wire.records import Fact

_log = logs.get("presence")

Describe = Callable[[], dict[str, Any]]
"""Returns some of `Heartbeat`'s fields: load, claims, running, memory_mib."""

_ABOUT_FIRST: Final = 2
_ABOUT_EVERY: Final = 12
"""Heartbeats that say all: the first two on a connection, then one a minute."""

_BUSY_AFTER_S: Final = 5.0
"""So long after the last thing was let go it beats as if it held something: who works takes the next one."""

_BEAT_APART_S: Final = 0.02
"""Asked for more often, it does not beat more often."""

_RESTED: Final = (0.8, 1.0)
"""Who beats rarely does it a little sooner than it said: those asked at the same time are not to stay together."""

_MOMENT_S: Final = 0.25
"""Between the moments of the clock in which agents beat,"""
_LATE_S: Final = 0.005
"""and so much later than said a beat may be planned: a timer that fires early by that is not to fire again in the
moment for which it was set.  The clock on the wall differs from the loop's by 0.5 ms a second at most while it is
slewed (NTP); to whoever listens a beat is overdue when it is late by half of what was said."""

_FIELDS: Final = frozenset({"load", "claims", "running", "memory_mib"})


def together_s(due_s: float, now: float, share: float | None = None) -> float:
    """How long to wait for a beat that is due in `due_s`: until the last of its moments before that (Unix seconds).

    All who beat do it in moments that are a quarter of a second apart: whoever listens wakes up a few times a second,
    however many they are.  `share` (from 0 to less than 1) is its place among those who beat as often: one
    moment in each `due_s` is its own, and they are spread over all of these.  None: all moments are its own.
    """
    apart_s = min(_MOMENT_S, due_s / 4)
    moments = int(due_s / apart_s)
    every_s = apart_s if share is None else moments * apart_s
    own_s = 0.0 if share is None else int(share * moments) * apart_s
    return due_s + _LATE_S - (now + due_s + _LATE_S - own_s) % every_s


class _Told(msgspec.Struct):
    what: str = ""
    instance: str | None = None
    reason: str = ""


class Beating:
    """Of one connection.  `start` it (`register` and `hold` do), `close` it before the connection."""

    def __init__(
        self, conn: Connection, pushes: Pushes, stating: Stating, tenant: str, agent: str, instance: str
    ) -> None:
        self.instance = instance
        self.registration: Registration | None = None
        """What was registered; None: nothing."""
        self.draining = False
        self.quarantined = False
        """A decider found that this agent uses more than it may; it is to take nothing until it is released."""
        self._conn = conn
        self._pushes = pushes
        self._stating = stating
        self._tenant = tenant
        self._agent = agent
        self._subject = subjects.heartbeat(tenant, agent, instance)
        self._sources: list[Describe] = []
        self._rests: list[Callable[[], float]] = []
        self._listeners: list[Callable[[], None]] = []
        self._held: set[Hashable] = set()
        self._held_at = float("-inf")
        self._said_at = float("-inf")
        self._said_s = limits.HEARTBEAT_S
        """How soon the next one comes, as the last one said."""
        self._rng = random.Random()
        self._share = zlib.crc32(self._subject.encode()) / 2**32
        """Which of the moments is its own."""
        self._abouts = 0
        self._count = 0
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._answer = False
        self._jobs: set[asyncio.Task[None]] = set()
        self._unregister: list[Unregister] = []
        self._discovery = Discovery(conn, tenant, agent, instance)
        self._away_at: float | None = None
        self._refused = 0
        """How often it was, since it registered."""
        self._again: asyncio.Task[None] | None = None
        """It registers again, because it was refused."""
        self._known_again: asyncio.Task[None] | None = None
        """It says again what it can do, because it was away."""
        self._closed = False

    # --- what it says ----------------------------------------------------------------------

    def describe(self, source: Describe) -> Unregister:
        """Let `source` say how this instance fares; several are merged, the last one wins."""
        self._sources.append(source)

        def unregister() -> None:
            if source in self._sources:
                self._sources.remove(source)

        return unregister

    def on_change(self, listener: Callable[[], None]) -> Unregister:
        """Call `listener` when `paused` may have changed."""
        self._listeners.append(listener)

        def unregister() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unregister

    def rests(self, source: Callable[[], float]) -> Unregister:
        """Let `source` say for how long this instance may be silent while it holds nothing (s); the shortest counts."""
        self._rests.append(source)

        def unregister() -> None:
            if source in self._rests:
                self._rests.remove(source)
                self.paced()

        return unregister

    @property
    def paused(self) -> bool:
        """Whether it is to take nothing more: it drains, or is quarantined."""
        return self.draining or self.quarantined

    @property
    def every_s(self) -> float:
        """How often it beats now."""
        if self._held or clock.monotonic() - self._held_at < _BUSY_AFTER_S:
            return limits.HEARTBEAT_S
        rest_s = min((rest() for rest in self._rests), default=0.0)
        return min(max(rest_s, limits.HEARTBEAT_IDLE_S), limits.HEARTBEAT_EVERY_MAX_S)

    def paced(self) -> None:
        """How often it beats may have changed: nobody is silent for longer than is good from now on."""
        if self._loop is not None and self.every_s < self._said_s:
            self.beat()

    def hold(self, what: Hashable) -> None:
        """This instance holds `what` (a claim, a lock): it beats every second until that is released."""
        self._held.add(what)
        self._held_at = clock.monotonic()
        if self._said_s != limits.HEARTBEAT_S or self._loop is None:
            # At once, ahead of the claim: what is held may block this event loop from its first line on.
            self._say(self._heartbeat())
            self._ensure()
            self._wake.set()

    def release(self, what: Hashable) -> None:
        """It holds that no longer."""
        if what in self._held:
            self._held.discard(what)
            self._held_at = clock.monotonic()

    # --- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to beat; returns when it can be asked, too.  Twice is legal."""
        if self._closed:
            raise errors.BusClosed
        if not self._unregister:
            self._unregister += [
                self._pushes.on(wire.TOPIC, self._pushed),
                self._conn.on_connected(self._connected),
                self._conn.on_disconnected(self._disconnected),
            ]
        await self._pushes.open()
        await self._discovery.open()
        self._ensure()
        self.beat()

    async def register(
        self,
        *,
        capabilities: dict[str, int] | None = None,
        labels: dict[str, str] | None = None,
        model: str | None = None,
        version: str | None = None,
        cost: float | None = None,
        memory_mib: float | None = None,
        coordinator: str | None = None,
        quotas: Quotas | None = None,
    ) -> Registration:
        """Say what this instance can do, as a fact, and begin to beat.

        `model`, `version`, `cost`: default, what the labels of these names say.
        Raises `InvalidPayload` and `InvalidToken` for what is none, and what `Stating.state` raises.
        """
        labels = dict(labels or {})
        said = wire.check(
            Registration(
                instance=self.instance,
                capabilities=dict(capabilities or {}),
                labels=labels,
                model=labels.get("model") if model is None else model,
                version=labels.get("version") if version is None else version,
                cost=_number(labels.get("cost")) if cost is None else cost,
                memory_mib=memory_mib,
                coordinator=coordinator,
                quotas=quotas,
            )
        )
        self.registration = said
        self._refused = 0
        self._discovery.registration = said
        self._abouts = 0
        await self._pushes.begin()  # ahead of the fact: that is acknowledged when the broker has both
        await self._state("registered", said)
        self._pushes.answered()
        await self.start()
        return said

    async def drain(self) -> None:
        """Say that this instance takes no more.  Twice is legal."""
        if not self.draining:
            self.draining = True
            self._notify()
            self.beat()
            await self._state("draining", {"instance": self.instance})

    async def rejoin(self) -> None:
        """Take work again, after `drain`."""
        if self.draining:
            self.draining = False
            self._notify()
            self.beat()
            if self.registration is not None:
                await self._state("registered", self.registration)

    async def close(self, within_s: float = limits.API_TIMEOUT_S) -> None:
        """Say goodbye, within that time: what this instance holds is free at once.  Twice is legal; never raises."""
        if self._closed:
            return
        self._closed = True
        for unregister in self._unregister:
            unregister()
        jobs = [*self._jobs, *([self._loop] if self._loop is not None else [])]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await self._discovery.close()
        if self.registration is not None and self._conn.is_connected:
            try:
                async with asyncio.timeout(min(within_s, limits.API_TIMEOUT_S)):
                    await self._state("left", {"instance": self.instance})
            except (errors.CoordError, TimeoutError) as exc:
                _log.debug("presence.left_unsaid", error=str(exc))
        if self._loop is not None:
            self._say(Heartbeat(bye=True))

    async def _state(self, event: str, data: Any) -> None:
        await self._stating.state(Fact(kind="agent", id=self._agent, event=event, data=data))

    def _ensure(self) -> None:
        if self._loop is None and not self._closed:
            self._loop = asyncio.get_running_loop().create_task(self._run(), name=f"{self._agent}-beating")

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._say(self._heartbeat())
            await asyncio.sleep(_BEAT_APART_S)
            # Soon again on a new connection: whoever listens may have come back later than we did.
            next_s = limits.HEARTBEAT_S if self._abouts <= _ABOUT_FIRST else self._said_s
            share: float | None = self._share
            if next_s > limits.HEARTBEAT_IDLE_S:
                # How rarely changes with how many there are: a moment of its own would be another one each time.
                next_s, share = next_s * self._rng.uniform(*_RESTED), None
            try:
                async with asyncio.timeout(together_s(next_s, clock.unix() - _BEAT_APART_S, share) - _BEAT_APART_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    # --- heartbeats ------------------------------------------------------------------------

    def beat(self) -> None:
        """Beat now, or a moment after the last one."""
        self._wake.set()

    def _heartbeat(self) -> Heartbeat:
        fields: dict[str, Any] = {}
        for source in self._sources:
            fields |= {name: value for name, value in source().items() if name in _FIELDS}
        self._count += 1
        about = self.registration
        place: str | None = self._conn.place
        if self._abouts >= _ABOUT_FIRST and self._count % _ABOUT_EVERY:
            about = place = None
        self._abouts += 1
        here, self._answer = self._answer, False
        return Heartbeat(
            **fields,
            every_s=self.every_s,
            draining=self.draining,
            quarantined=self.quarantined,
            connection=self._conn.epoch,
            place=place,
            here=here,
            about=about,
        )

    def _say(self, beat: Heartbeat) -> None:
        try:
            self._conn.publish(self._subject, msgspec.json.encode(beat))
        except errors.BusError:
            return  # it is missed, as it should be
        self._said_at = clock.monotonic()
        self._said_s = beat.every_s or limits.HEARTBEAT_S

    def _disconnected(self) -> None:
        self._away_at = clock.monotonic()

    def _connected(self) -> None:
        away_s = 0.0 if self._away_at is None else clock.monotonic() - self._away_at
        self._away_at = None
        self._abouts = 0
        self._say(self._heartbeat())  # before anything else: what is held hangs on it
        self._wake.set()
        saying = self._known_again is not None and not self._known_again.done()
        if self.registration is not None and away_s > limits.PRESENCE_SETTLE_S and not saying:
            self._known_again = self._start(self._say_again())

    # --- what it is told -------------------------------------------------------------------

    def _pushed(self, body: bytes) -> None:
        try:
            told = msgspec.json.decode(body, type=_Told)
        except msgspec.MsgspecError:
            return
        if told.instance is not None and told.instance != self.instance:
            return
        if told.what == "beat":
            self._answer = True
            self._wake.set()
        elif told.what == "about":
            self._abouts = 0
            self._wake.set()
        elif told.what == "drain":
            self._start(self.drain())
        elif told.what == "rejoin":
            self._start(self.rejoin())
        elif told.what == "refused":
            if self._again is None or self._again.done():
                self._again = self._start(self._register_again())
            _log.warning("presence.refused", agent=self._agent, instance=self.instance, reason=told.reason)
        elif told.what in ("quarantined", "released"):
            self.quarantined = told.what == "quarantined"
            _log.warning("presence." + told.what, agent=self._agent, reason=told.reason)
            self._notify()
            self.beat()

    async def _register_again(self) -> None:
        """There may be room meanwhile: others ended."""
        wait_s = min(limits.REGISTER_AGAIN_S * 2.0 ** min(self._refused, 30), limits.REGISTER_AGAIN_MAX_S)
        self._refused += 1
        await asyncio.sleep(wait_s * self._rng.uniform(0.5, 1.0))
        if self.registration is not None and not self.draining:
            await self._state("registered", self.registration)

    async def _say_again(self) -> None:
        """Register: it may have been forgotten meanwhile.

        That it is there its heartbeats say; so a fleet that is back need not state it all at once, but as it beats.
        """
        await asyncio.sleep(self._rng.uniform(0.0, max(self.every_s, limits.HEARTBEAT_IDLE_S)))
        if self.registration is not None and not self.draining:  # else it says so when it rejoins
            await self._state("registered", self.registration)

    def _notify(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _start(self, job: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(_logged(job), name=f"{self._agent}-presence")
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None  # a label may say anything


async def _logged(job: Any) -> None:
    try:
        await job
    except errors.CoordError as exc:
        _log.warning("presence.job_failed", error=exc)
