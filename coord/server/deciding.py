"""One partition of the log, from its consumer to what its deciders answer.

::

    pinned → snapshot → reset the consumer behind it → fold what follows, owing what it demands
                                                            │ caught up
            state what is still owed · reconcile ◀──────────┘
                 │
        ┌─▶ facts, deaths, time ──▶ deciders ──▶ effects, performed at once
        └── now and then: a snapshot, once the log has all that the facts up to it led to

While it catches up nothing is published: a statement that facts demanded is *owed* until it is
met further on in the log, and what is still owed at the end is stated (`coord.core.deciding.Owed`).
Of deliveries, pushes and timers each decider says once caught up what its state demands
(`reconcile`).  What has ended, or was given back unclaimed, is in no state: so acks, naks and
pushes that the last minute's facts led to are kept, and done once more at the end.  After a
takeover an agent may be told something twice, and a worker be given what is not free: it looks.

Cost.  Facts are folded in the read loop's own turn: no task, no future and no queue for one.
Whatever cannot be done synchronously (a history to be recalled, a full pipeline) pauses
the partition.

Failure.  Whatever breaks (pin lost, a delivery lost, the broker away, a statement without an
answer) ends the *session*; the next begins from the snapshot, with new deciders.  A decider
that raises is a defect: counted, logged, and its fact is passed over, since a partition
that stops would stop everybody's work in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final, Literal

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection
from coord.bus.pull import PinnedReader
from coord.core.deciding import Decider, Presence, State
from coord.core.retry import backoff_s
from coord.runtime import clock
from coord.server.deciders import Factory
from coord.server.effects import Performer
from coord.server.session import Session
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.readings import Readings

_log = logs.get("deciders")

Phase = Literal["unassigned", "standby", "catching_up", "running", "retrying"]

_ROUSE_S: Final = 0.5
_ROUSE_CALM_S: Final = 4.0
_LOOK_CALM_S: Final = 2.0
"""Where nothing has ever been delivered: how often the consumer is asked, and deciders look at the world outside."""
_UNPIN_S: Final = 1.0


class PartitionDecider:
    """Decides about one partition while it is assigned to this process."""

    def __init__(
        self,
        partition: int,
        conn: Connection,
        performer: Performer,
        presence: Presence,
        factory: Factory,
        metrics: Metrics,
        consumer: topology.Spec | None = None,
        *,
        now: Callable[[], float] = lambda: clock.unix(),  # noqa: PLW0108 - looked up when it is called
        readings: Readings | None = None,
    ) -> None:
        """`consumer`: what to make when the broker has forgotten it; None: nothing.

        `readings`: shared with another service of this process.

        `now`: Unix seconds, as near to the broker's as the machine's clock is.
        """
        self.partition = partition
        self.phase: Phase = "unassigned"
        self.error: errors.CoordError | None = None
        """Why it is retrying."""
        self.closed = asyncio.Event()
        """Set when `run` has ended."""
        self._conn = conn
        self._performer = performer
        self._presence = presence
        self._factory = factory
        self._metrics = metrics
        self._spec = consumer
        self._readings = readings
        self._now = now
        self._reader = PinnedReader(conn, subjects.EVENTS, f"decider-{partition}")
        self._reader.on_wake = self._wake
        self._wanted = asyncio.Event()
        self._leave = asyncio.Event()
        self._closing = False
        self._failures = 0
        self._rng = random.Random()
        self._session: Session | None = None
        self._outsiders: list[Decider] | None = None
        """Of a partition without any fact: see `_decide_about_nothing`."""

    # --- control -------------------------------------------------------------------------

    def assign(self, *, mine: bool) -> None:
        """Say whether this process should own the partition.  May be called at any time."""
        if mine and not self._closing:
            self._leave.clear()
            self._wanted.set()
        else:
            self._wanted.clear()
            self._leave.set()

    def close(self) -> None:
        """Give the partition back and end `run`."""
        self._closing = True
        self.assign(mine=False)
        self._wanted.set()

    @property
    def reader(self) -> PinnedReader:
        """What reads its consumer: for whoever reads for all partitions (`coord.bus.shared`)."""
        return self._reader

    @property
    def deciders(self) -> list[Decider]:
        """Of the session under way; their states are as of `position`."""
        return [] if self._session is None else self._session.deciders

    @property
    def position(self) -> int:
        """Everything up to this stream sequence is folded; 0 without a session."""
        return 0 if self._session is None else self._session.position

    @property
    def snapshot_bytes(self) -> int:
        """Of the newest snapshot, compressed; 0 without a session."""
        return 0 if self._session is None else self._session.snapshot_bytes

    @property
    def is_running(self) -> bool:
        """Whether it has caught up and decides."""
        return self.phase == "running"

    def gone(self, tenant: str, agent: str, instance: str, now: float, left: bool) -> None:  # noqa: FBT001
        """An instance is no more; `left`: it has said so itself."""
        if self._session is None or not self.is_running:
            return
        self._session.gone(tenant, agent, instance, now, left=left)

    def look(self) -> None:
        """Time has passed (`limits.DECIDER_TICK_S`): one who looks at all partitions wakes the process up once."""
        if self._session is not None and self.is_running:
            self._session.look(self._presence)

    async def run(self) -> None:
        """Decide until `close`; never raises because of the broker or a fact."""
        try:
            while not self._closing:
                if not self._wanted.is_set():
                    self._set("unassigned")
                await self._wanted.wait()
                try:
                    if not self._leave.is_set():
                        await self._own()
                        self.error = None
                except errors.CoordError as exc:
                    await self._retry(exc)
                except Exception as exc:  # noqa: BLE001 - a defect of one session must not cost the partition
                    _log.error("deciders.defect", partition=self.partition, exc_info=exc)
                    await self._retry(errors.CoordError(f"a defect: {type(exc).__name__}: {exc}"))
        finally:
            await self._reader.close()
            self._set("unassigned")
            self.closed.set()

    # --- one session ---------------------------------------------------------------------

    async def _own(self) -> None:
        self._set("standby")
        try:
            pinned = await self._until_pinned()
        except errors.ApiNotFound:
            if self._spec is None:
                raise
            # It lives in the broker's memory: a broker that was started again has forgotten it.
            await topology.create_consumer(self._conn, self._spec)
            pinned = await self._until_pinned()
        if not pinned:
            await self._reader.stop()
            return
        self._outsiders = None
        began = clock.monotonic()
        self._set("catching_up")
        session = Session(self.partition, self._conn, self._performer, self._metrics, self._now, self._readings)
        try:
            await session.restore(lambda: self._factory(self.partition), self._reader)
            self._session = session
            await session.caught_up(self._leave)
            if not self._leave.is_set():
                self._metrics.decider_restore_seconds.observe(clock.monotonic() - began)
                self._metrics.decider_takeovers.inc()
                self._failures = 0
                self._set("running")
                session.look(self._presence)
                await session.decide(self._leave)
        finally:
            self._session = None
            session.end()
            # Also after a failure: our own next session would have to wait for the pin to lapse.
            with contextlib.suppress(errors.CoordError):
                await self._reader.unpin(timeout_s=_UNPIN_S)

    def _wake(self) -> None:
        if self._session is not None:
            self._session.wake()

    async def _until_pinned(self) -> bool:
        """Wait for the pin; False when told to leave."""
        wait_s = _ROUSE_S / 10  # usually a message waits and brings the pin at once
        loop = asyncio.get_running_loop()
        ask_at = began_at = loop.time()
        roused = False
        pinned = asyncio.ensure_future(self._reader.wait_pinned())
        leave = asyncio.ensure_future(self._leave.wait())
        try:
            while True:
                await asyncio.wait({pinned, leave}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if pinned.done():
                    pinned.result()
                    return True
                if leave.done():
                    return False
                # Once whatever it was given; then only if it has given something to somebody since: looking for
                # what there is costs the broker more the longer the log is.
                if loop.time() >= ask_at:
                    roused |= await self._reader.rouse(None if roused else 0)
                if self._reader.is_untouched:
                    self._decide_about_nothing()
                # Where nothing was ever given to anybody, the first message brings the pin by itself.
                calm = self._reader.is_untouched and loop.time() - began_at > limits.PIN_TTL_S + 1
                wait_s = clock.in_step(_LOOK_CALM_S if calm else _ROUSE_S)
                if loop.time() >= ask_at:
                    ask_at = loop.time() + (_ROUSE_CALM_S - _LOOK_CALM_S / 2 if calm else 0.0)
        finally:
            for future in (pinned, leave):
                future.cancel()
            await asyncio.gather(pinned, leave, return_exceptions=True)

    def _decide_about_nothing(self) -> None:
        """Let deciders look at the world outside of the log though no fact of the partition has ever been stated.

        A pin comes with a message, so nobody owns such a partition; but a circuit whose capability
        belongs to it has to open.  Its state is known: it is empty.  What several processes state at once
        is stated once, and with that fact the partition gets an owner.
        """
        if self._performer.is_full:
            return
        if self._outsiders is None:
            self._outsiders = self._factory(self.partition)
        now = self._now()
        for decider in self._outsiders:
            for effect in decider.tick(now, self._presence):
                if type(effect) is State:
                    self._performer.state(effect, _not_ours)

    async def _retry(self, exc: errors.CoordError) -> None:
        self._metrics.decider_sessions_ended.labels(reason=exc.code).inc()
        self._failures += 1
        wait_s = backoff_s(self._failures, self._rng, first_s=0.05, most_s=limits.RETRY_MAX_S)
        expected = isinstance(exc, errors.PinLost | errors.DeliveryGap | errors.NotConnected)
        log = _log.info if expected or self._closing else _log.warning
        log("deciders.session_ended", partition=self.partition, code=exc.code, error=str(exc), retry_s=round(wait_s, 3))
        self.error = exc
        self._set("retrying")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._leave.wait()

    def _set(self, phase: Phase) -> None:
        if phase == "running" != self.phase:
            self._metrics.decider_owned.inc()
        elif self.phase == "running" != phase:
            self._metrics.decider_owned.dec()
        self.phase = phase


def _not_ours(error: errors.CoordError | None) -> None:
    """A statement about an empty partition: when it fails, the next look makes it again."""
    if error is not None:
        _log.info("deciders.empty_partition_not_told", code=error.code)
