"""Standing by and being woken: the edge of `coord.core.seats`, for one worker at one capability.

Who has no seat at the queues listens to ``coord.wake.{tenant}.{capability}`` with all others who
have none, and the broker gives each of the service's messages to one of them.  Whoever cannot take
work at the moment does not listen: a wake is not to be lost to it.

Before it stands by for the first time it sees for itself that what the service says there arrives: otherwise,
as where the broker's configuration is an older one, it waits like everybody did.

It never pulls: its `Puller` does.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection, Subscription
from coord.core import seats
from coord.core.seats import Seat, State
from coord.telemetry import logs
from coord.wire import subjects

_log = logs.get("worker")

_ANSWER_S: Final = 2.0

_SEATS: Final = 64
"""What a service sees to that does not say it.  Where fewer waited it would wake workers again and again."""


class _Wake(msgspec.Struct):
    what: str = ""


class _Waiting(msgspec.Struct):
    waiting: int = 0
    beat_s: float = 0.0
    seats: int = _SEATS
    stands: bool = False


class Standby:
    """Of one `Puller`, which waits for work while this is not `standing`."""

    def __init__(
        self, conn: Connection, tenant: str, capability: str, *,
        idle: Callable[[], bool], able: Callable[[], bool], wake: Callable[[], None], rise: Callable[[], None],
        paced: Callable[[], None],
    ) -> None:  # fmt: skip
        """Nothing is asked before `begin`.

        `idle`: whether pulls of it wait at all queues; `able`: whether it could take something; `wake`: there may be
        work, and it waits from now on; `rise`: nothing may wait any more; `paced`: `rest_s` is shorter than it was.
        """
        self._conn = conn
        self._tenant, self._capability = tenant, capability
        self._subject = subjects.wake(tenant, capability)
        self._service = subjects.rpc(tenant, "queue", "waiting")
        self._idle, self._able, self._wake, self._rise, self._paced = idle, able, wake, rise, paced
        self._beat_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random()
        self._seat = self._new_seat()
        self._heard: Subscription | None = None
        self._following = False
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._proven = False
        """What the service says at `coord.wake` has arrived here."""
        self._deaf = self._warned = False
        """The broker does not let it be woken."""
        self._away = True
        """It takes no part: before `begin`, and after `leave`."""
        self._unregister = conn.on_permission_denied(self._denied)

    @property
    def state(self) -> State:
        """Of its seat."""
        return self._seat.state

    @property
    def standing(self) -> bool:
        """Whether it neither waits nor asks, until it is woken."""
        return self._seat.standing

    @property
    def rest_s(self) -> float:
        """How rarely its agent may beat, as the service said: nothing is given to who stands by; 0: as usual."""
        return self._beat_s if self.standing else 0.0

    async def look_first(self) -> bool:
        """Ask before anything is pulled: whether a crowd waits, so that it stands by from the start.

        A fleet that comes together would leave thousands of pulls for the seconds until all have looked.
        """
        try:
            return await self._prove(begins=True)
        except errors.CoordError as exc:
            _log.debug("worker.not_looked", capability=self._capability, error=exc.code)
            return False

    def begin(self, *, stands: bool = False) -> None:
        """It pulls from now on, and looks now and then how many do; `stands`: `look_first` says that it need not."""
        self._away = False
        self._seat = self._new_seat()
        self._seat.begun(self._loop.time(), self._rng.random(), stands=stands)
        self._look_at(self._seat.look_at)
        self.follow()

    def follow(self) -> None:
        """Whether it could take something may have changed: listen, or let others hear."""
        if not self._following and self._should_listen() != (self._heard is not None):
            self._following = True
            self._start(self._subscribe())

    def leave(self) -> None:
        """It pulls no more for now, and is not woken."""
        self._away = True
        self._seat = self._new_seat()
        if self._timer is not None:
            self._timer.cancel()
        self._paced()
        self.follow()

    async def close(self) -> None:
        """Be woken no more.  Twice is legal."""
        self.leave()
        self._unregister()
        if self._asking is not None:
            self._asking.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)  # what it listens to is not left behind
        heard, self._heard = self._heard, None
        if heard is not None:
            await heard.unsubscribe()

    def _new_seat(self) -> Seat:
        return Seat(self._loop.time(), self._rng.random())

    # --- being woken ----------------------------------------------------------------------

    def _should_listen(self) -> bool:
        return self.standing and not self._away and self._able()

    async def _subscribe(self) -> None:
        try:
            while self._should_listen() != (self._heard is not None):
                if self._heard is None:
                    self._heard = await self._conn.subscribe_bytes(
                        self._subject, self._woken, queue=subjects.WAKE_GROUP
                    )
                else:
                    heard, self._heard = self._heard, None
                    await heard.unsubscribe()
        except errors.BusClosed:
            return
        finally:
            self._following = False

    def _woken(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:  # noqa: ARG002
        if _said(body) != "work":
            return
        if self._should_listen() and self._seat.woken(self._loop.time(), self._rng.random()):
            self._comes()
        self.follow()

    def _comes(self) -> None:
        """It stands by no more."""
        self._paced()  # before it pulls: who is given something is not to be silent for long
        self.follow()
        self._look_at(self._seat.look_at)
        self._wake()

    def _denied(self, subject: str) -> None:
        """Whoever cannot be woken waits, as if it were alone."""
        if subject == self._subject.lower() and not self._deaf:
            self._deaf = True
            _log.warning("worker.not_woken", capability=self._capability, subject=self._subject,
                         remedy="allow it to subscribe there")  # fmt: skip
            if self._seat.alone():
                self._comes()

    # --- looking --------------------------------------------------------------------------

    def _look_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._away and not self._deaf:
            self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        """It is time to: if it is busy, or the broker away, a little later."""
        if self._conn.is_connected and (self.standing or self._idle()):
            self._asking = self._start(self._ask(self._seat))
        else:
            self._look_at(self._loop.time() + limits.SEAT_AGAIN_S * self._rng.uniform(0.5, 1.5))

    async def _ask(self, seat: Seat) -> None:
        changed = False
        try:
            told = await self._waiting()
            waiting, of = told.waiting, max(1, told.seats)
            if seats.crowded(waiting, of) and not self._proven and not await self._prove():
                waiting = 0  # it is as if it were alone
            may_stand = self._proven and not self._deaf and self._idle()
            if seat is self._seat:
                changed = seat.looked(waiting, self._loop.time(), self._rng.random(), may_stand=may_stand, seats=of)
        except errors.CoordError as exc:
            _log.debug("worker.not_looked", capability=self._capability, error=exc.code)
            seat.unanswered(self._loop.time(), self._rng.random())
        if seat is not self._seat:
            return
        self._look_at(seat.look_at)
        if changed and seat.state == "seated":
            self._comes()
        elif changed:
            self.follow()  # before its pulls are taken back
            self._rise()

    async def _waiting(self) -> _Waiting:
        return await self._told({"seated": not self.standing and self._idle()})

    async def _told(self, more: dict[str, Any]) -> _Waiting:
        asked = {"capability": self._capability, "probe": "", **more}
        told = await rpc.call(self._conn, self._service, asked, _Waiting, timeout_s=_ANSWER_S, content="json")
        shorter, self._beat_s = told.beat_s < self._beat_s, told.beat_s
        if shorter:
            self._paced()
        return told

    async def _prove(self, *, begins: bool = False) -> bool:
        """Whether what the service says at `coord.wake` arrives here; `begins`: and whether it is to stand by."""
        arrived = asyncio.Event()

        def heard(subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:  # noqa: ARG001
            if _said(body) == "probe":
                arrived.set()

        name = subjects.PROBES + secrets.token_hex(12)
        subscription = await self._conn.subscribe_bytes(subjects.wake(self._tenant, name), heard)
        try:
            async with asyncio.timeout(limits.WAKE_PROBE_S):
                told = await self._told({"probe": name, "begins": begins})
                if begins and not told.stands:
                    return False
                await arrived.wait()
        except TimeoutError:
            if not self._warned:
                _log.warning("worker.not_woken", capability=self._capability, subject=self._subject,
                             remedy="let what coord publishes there reach agents")  # fmt: skip
            self._warned = True
            return False
        finally:
            await subscription.unsubscribe()
        self._proven = True
        return True

    def _start(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(job, name="standby")
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task


def _said(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Wake).what
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
