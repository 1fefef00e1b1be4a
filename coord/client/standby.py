"""Waking workers and being woken: the edge of `coord.core.seats`, for one worker at one capability.

Who has no seat at the queues listens to ``coord.wake.{tenant}.{capability}`` with all others who
have none, and the broker gives each message to one of them.  A wake is a question that is only
answered by who was woken in vain: silence means that somebody comes.

It never pulls and never decides: its `Puller` does the one, the seat the other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection, Subscription
from coord.core.seats import Seat, State
from coord.telemetry import logs
from coord.wire import subjects, work

_log = logs.get("worker")

_IN_VAIN: Final = b'{"in_vain":true}'
_LOOK_S: Final = 1.0
"""An answer that takes longer is none: a worker that has just begun is waiting for it."""


class _Wake(msgspec.Struct):
    what: str = ""
    queue: str = ""
    """Which has work; none: any may."""


class _Waiting(msgspec.Struct):
    waiting: int = 0


class Standby:
    """Of one `Puller`, which asks `may_wait` before it leaves a pull behind and tells what becomes of it."""

    def __init__(
        self, conn: Connection, tenant: str, capability: str, *,
        wake: Callable[[Collection[str]], None], rise: Callable[[], None], busy: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Nothing is asked before `may_wait`.

        `wake(queues)`: these may have work, or, where there are none, it may wait; `rise`: nothing may wait any more;
        `busy`: whether no slot is free.
        """
        self._conn = conn
        self._capability = capability
        self._subject = subjects.wake(tenant, capability)
        self._service = subjects.rpc(tenant, "queue", "waiting")
        self._wake, self._rise, self._busy = wake, rise, busy
        self._seat = Seat()
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random()
        self._heard: Subscription | None = None
        self._listens = self._following = False
        """Whether it should be woken; `_heard` follows."""
        self._looking = False
        self._wakes = 0
        self._away: asyncio.TimerHandle | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._deaf = False
        """The broker does not let it be woken."""
        self._closed = False
        self._unregister = conn.on_permission_denied(self._denied)

    # --- what its puller asks and tells ---------------------------------------------------

    @property
    def state(self) -> State:
        """Of its seat."""
        return self._seat.state

    @property
    def standing(self) -> bool:
        """Whether it neither waits nor asks, until it is woken."""
        return self._seat.state == "standing"

    def may_wait(self) -> bool:
        """There is nothing to do: whether to leave pulls waiting.  If not, it stands by or is about to know."""
        seat = self._seat
        if self._deaf or self._closed:
            return not self._closed
        if seat.had_its_share:
            self._pass_on()
        if seat.state == "new":
            self._look()
        elif seat.state == "awake":
            self._stand_by()
        return seat.state == "seated"

    def delivered(self, queue: str, pending: int) -> None:
        """It was given something, and so much more waits at that queue."""
        for _ in range(self._seat.delivered(pending)):
            if self._wakes < limits.WAKES_AT_ONCE and self._conn.is_connected:
                self._start(self._offer(self._seat, _Wake("work", queue)))

    def full(self) -> None:
        """No slot is free: if that lasts, its seat is somebody else's."""
        if self._away is None and self._seat.leaves:
            wait_s = limits.SEAT_AWAY_S if self._seat.crowded else limits.SEAT_OFFER_S * self._rng.uniform(0.5, 1.5)
            self._away = self._loop.call_later(wait_s, self._still_away)

    def _still_away(self) -> None:
        self._away = None
        if self._busy() and not self._closed:
            self._pass_on()

    def sweep(self) -> None:
        """Now and then: look how many wait, if it is time to."""
        if self._seat.look_at <= self._loop.time() and self._seat.state in ("seated", "standing") and not self._deaf:
            self._look()

    def leave(self) -> None:
        """It pulls no more for now: its seat is somebody else's, and it is not woken."""
        if self._seat.leaves:
            self._pass_on()
        self._seat = Seat()
        self._listens = False
        self._follow()

    async def close(self) -> None:
        """Be woken no more.  Twice is legal."""
        self._closed = True
        self._unregister()
        if self._away is not None:
            self._away.cancel()
        for job in list(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        heard, self._heard = self._heard, None
        if heard is not None:
            await heard.unsubscribe()

    # --- waking others --------------------------------------------------------------------

    def _pass_on(self) -> None:
        if self._conn.is_connected and self._seat.pass_on():
            self._start(self._offer(self._seat, _Wake("seat")))

    async def _offer(self, seat: Seat, wake: _Wake) -> None:
        """Wake somebody; whoever offers a seat has it again if nobody comes."""
        self._wakes += 1
        nobody = False
        body = msgspec.json.encode(wake)
        try:
            for _ in range(limits.WAKE_TRIES):
                try:
                    await self._conn.request(self._subject, body, timeout_s=limits.WAKE_CONSENT_S)
                except errors.DeadlineExceeded:
                    return
        except errors.ServiceUnavailable:
            nobody = True
        except errors.CoordError:
            pass  # it is as if nobody had come
        finally:
            self._wakes -= 1
        if wake.what == "seat":
            if seat.refused(nobody=nobody) and seat is self._seat:
                self._comes()
        elif nobody:
            seat.crowded = False

    # --- being woken ----------------------------------------------------------------------

    def _stand_by(self) -> None:
        if self._seat.rest(self._loop.time(), self._rng.random()):
            self._listen()

    def _listen(self) -> None:
        self._listens = True
        self._follow()

    def _comes(self, queues: Collection[str] = ()) -> None:
        """It stands by no more."""
        self._loop.call_later(limits.STANDBY_LINGER_S, self._hear_no_more)
        self._wake(queues)

    def _hear_no_more(self) -> None:
        self._listens = self.standing
        self._follow()

    def _follow(self) -> None:
        if not self._following and self._listens != (self._heard is not None):
            self._following = True
            self._start(self._subscribe())

    async def _subscribe(self) -> None:
        try:
            while self._listens != (self._heard is not None):
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
        try:
            said = msgspec.json.decode(body, type=_Wake)
        except msgspec.MsgspecError:
            return
        if not self._busy() and self._seat.woken(said.what):
            some = (said.queue,) if said.queue in work.PRIORITIES else work.PRIORITIES
            self._comes(some if said.what == "work" else ())
        elif reply:
            self._say(reply.decode())

    def _say(self, reply: str) -> None:
        try:
            self._conn.publish(reply, _IN_VAIN)
        except errors.BusError:
            return  # then it counts as consent, and somebody sits down later

    def _denied(self, subject: str) -> None:
        """Whoever cannot be woken waits, as if it were alone."""
        if subject == self._subject.lower() and not self._deaf:
            self._deaf = True
            _log.warning("worker.not_woken", capability=self._capability, subject=self._subject,
                         remedy="allow it to publish and subscribe there")  # fmt: skip
            if self._seat.alone():
                self._wake(())

    # --- looking --------------------------------------------------------------------------

    def _look(self) -> None:
        if not self._looking and self._conn.is_connected:
            self._looking = True
            self._start(self._ask(self._seat))

    async def _ask(self, seat: Seat) -> None:
        try:
            asked = {"capability": self._capability, "seated": seat.state == "seated"}
            told = await rpc.call(self._conn, self._service, asked, _Waiting, timeout_s=_LOOK_S, content="json")
            changed = seat.looked(told.waiting, self._loop.time(), self._rng.random())
        except errors.CoordError as exc:
            _log.debug("worker.not_looked", capability=self._capability, error=exc.code)
            changed = seat.unanswered(self._loop.time(), self._rng.random())
        finally:
            self._looking = False
        if not changed or seat is not self._seat:
            return
        if seat.state == "seated":
            self._comes()
        else:
            self._rise()
            if seat.state == "standing":
                self._listen()

    def _start(self, job: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            job.close()
            return
        task = self._loop.create_task(job, name="standby")
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
