"""The edge of `coord.core.standers`: tells workers how many wait, and wakes those who stand by.

``coord.rpc.{tenant}.queue.waiting`` {capability, seated} tells an idle worker how many pulls wait, so that it need not
be one more (`coord.core.seats`).  With `probe` a message is sent by which it sees that it can be woken; with `begins`,
too, it is told whether to pull at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.core import presence, seats
from coord.core.presence import PresenceTable
from coord.core.standers import Place, Queued, Standers
from coord.runtime import clock
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects, work

_log = logs.get("board")

_WAITING_S: Final = 0.1
"""How many pulls wait is not asked of the broker more often for those who ask."""
_AT_ONCE: Final = 512
"""Messages sent before others of this process have their turn: a few milliseconds."""

_WORK: Final = b'{"what":"work"}'
_PROBE: Final = b'{"what":"probe"}'


class WaitingRequest(msgspec.Struct, frozen=True):
    """Of ``queue.waiting``."""

    capability: str
    seated: bool = False
    """A pull of the asker's is one of them: told of a crowd, it stands by.  Otherwise it stands by already."""
    probe: str = ""
    """Where, in place of a capability, to send what wakes nobody."""
    begins: bool = False
    """It has not pulled yet, and stands by from the start if it is told to."""


class WaitingAnswer(msgspec.Struct, frozen=True):
    """Of ``queue.waiting``."""

    waiting: int
    """Pulls that wait at that of the capability's queues where the fewest do."""
    beat_s: float
    """How rarely whoever stands by may beat."""
    seats: int
    """How many are to wait; from twice as many on whoever looks stands by."""
    stands: bool = False
    """Whoever `begins` and can be woken is to stand by: a crowd waits."""


class Standing:
    """Of one process, on a connection that stays the caller's."""

    def __init__(self, conn: Connection, metrics: Metrics, table: PresenceTable) -> None:
        self.standers = Standers(clock.monotonic())
        self._conn = conn
        self._metrics = metrics
        self._table = table
        self._waiting: dict[Place, tuple[float, int]] = {}
        """When it was looked how many pulls wait, and how many did, those who have been told meanwhile taken off."""
        self._looking = asyncio.Lock()
        self._job: asyncio.Task[None] | None = None

    async def serve(self) -> rpc.Endpoint:
        """Answer requests."""
        return await rpc.serve(
            self._conn, subjects.rpc_all("queue", "waiting"), self._on_waiting, service="queue", method="waiting",
            registry=self._metrics,
        )  # fmt: skip

    def look(self, agents: Mapping[Place, int], queued: Mapping[Place, int], again: Mapping[Place, int]) -> None:
        """Wake who is wanted; not while the last look lasts.  See `Standers.due`; `again`: see `Queued`."""
        if self._job is not None:
            if not self._job.done():
                return
            if not self._job.cancelled() and (failed := self._job.exception()) is not None:
                _log.error("standing.failed", error=failed)
            self._job = None
        places = self.standers.due(agents, queued, clock.monotonic())
        if places and self._conn.is_connected:
            self._job = asyncio.get_running_loop().create_task(self._wake(places, agents, again), name="standing")

    async def close(self) -> None:
        """Wake nobody any more.  Twice is legal."""
        if self._job is not None:
            self._job.cancel()
            await asyncio.gather(self._job, return_exceptions=True)

    async def _wake(self, places: list[Place], agents: Mapping[Place, int], again: Mapping[Place, int]) -> None:
        for place in places:
            try:
                if not await self._is_heard(place):
                    continue
                found = await self._queued(place)
                if found is not None:
                    found = found._replace(again=again.get(place, 0))
                    await self._send(place, self.standers.wakes(place, found, agents.get(place, 0)))
            except errors.CoordError as exc:  # the next look is a quarter of a second away
                _log.debug("standing.not_looked", tenant=place[0], capability=place[1], error=exc)

    async def _is_heard(self, place: Place) -> bool:
        """Whether anybody listens where workers stand by; the broker says at once if nobody does.

        An account says more than that and knows it less well: after a start all agents are presumed to stand by.
        """
        return await self._conn.is_heard(subjects.wake(*place), _PROBE)

    async def _send(self, place: Place, count: int) -> None:
        subject = subjects.wake(*place)
        for n in range(count):
            self._conn.publish(subject, _WORK)
            if n % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)

    async def _queued(self, place: Place) -> Queued | None:
        """What waits; None: it has no queues."""
        names = [subjects.queue(*place, name) for name in work.PRIORITIES]
        asked = (self._conn.api(f"CONSUMER.INFO.{subjects.EVENTS}.{name}") for name in names)
        try:
            infos = await asyncio.gather(*asked)
        except errors.ApiNotFound:
            return None
        return Queued(
            min(int(info.get("num_waiting") or 0) for info in infos),
            sum(int(info.get("num_pending") or 0) for info in infos),
        )

    async def _on_waiting(self, request: rpc.Request) -> WaitingAnswer:
        tenant, _, _ = subjects.parse_rpc(request.subject)
        asked = request.decode(WaitingRequest)
        place = (tenant, asked.capability)
        try:
            subjects.check_token(asked.capability, "capability")
            if asked.probe:
                if not asked.probe.startswith(subjects.PROBES):
                    raise errors.InvalidRequest(f"a probe begins with {subjects.PROBES}")
                self._conn.publish(subjects.wake(tenant, asked.probe), _PROBE)
        except errors.InvalidToken as exc:
            raise errors.InvalidRequest(exc.message) from exc
        async with self._looking:  # one asks the broker for all who look in the same moment
            now = clock.monotonic()
            at, waiting = self._waiting.get(place, (float("-inf"), 0))
            if now - at >= _WAITING_S:
                found = await self._queued(place)
                at, waiting = clock.monotonic(), found.waiting if found is not None else 0
                self._waiting[place] = at, waiting
        beat_s = presence.rest_s(self._table.present)
        if asked.probe and not asked.begins:
            return WaitingAnswer(waiting, beat_s, limits.QUEUE_SEATS)
        if len(self._waiting) >= 2 * limits.CAPABILITIES_MAX:
            self._waiting.clear()
        # Many look in the same moment: not all of them are to leave, or to come.
        crowd = seats.crowded(waiting)
        leaves = asked.seated and crowd
        comes = not crowd if asked.begins else not asked.seated and waiting < limits.QUEUE_SEATS
        self._waiting[place] = at, waiting - leaves + comes
        if leaves or (not asked.seated and not comes):
            self.standers.tell(place, now)
        return WaitingAnswer(waiting, beat_s, limits.QUEUE_SEATS, stands=asked.begins and crowd)
