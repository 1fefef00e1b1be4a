"""Whether coord understands what is about to be stated: an older release would pass it over without a word.

Asked once a minute at most, and only by who uses something newer than the first release.  Where nobody answers at all
nobody is refused: who comes next may well understand it, and the fact says what it needs (`coord.wire.understood`).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import subjects
from coord.wire.understood import Understands

_KNOWN_S: Final = 60.0
_UNKNOWN_S: Final = 1.0
"""Nobody answered, or somebody older: asked again after so long."""

_log = logs.get("client")


class Understood:
    """Of one connection."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self._conn = conn
        self._service = subjects.rpc(tenant, "service", "understands")
        self._older = subjects.rpc(tenant, "agents", "capabilities")
        self._folds: int | None = 0
        """As was answered last; None: nobody did."""
        self._until = 0.0
        self._asking = asyncio.Lock()

    def covers(self, folds: int) -> bool:
        """Whether `demand` would return at once."""
        return clock.monotonic() < self._until and (self._folds is None or self._folds >= folds)

    async def demand(self, folds: int, what: str) -> None:
        """Return when it is understood, or nobody can say; `ServiceTooOld` naming `what` when it is not."""
        async with self._asking:  # the steps of all slots may begin together: one asks for all
            if clock.monotonic() >= self._until:
                self._folds = found = await self._ask()
                known_s = _UNKNOWN_S if found is None or found < folds else _KNOWN_S
                self._until = clock.monotonic() + known_s
        if self._folds is not None and self._folds < folds:
            raise errors.ServiceTooOld(f"coord's services do not know {what}", needs=folds, understands=self._folds)

    async def _ask(self) -> int | None:
        """None: nobody says; 0: who decides is of a release that cannot be asked."""
        for wait_s in (limits.REPLICA_BEAT_S, 0.0):  # a process that begins answers one question after the other
            try:
                return (await rpc.call(self._conn, self._service, {}, Understands, content="json")).folds
            except (errors.ServiceUnavailable, errors.CircuitOpen):  # of this question: nobody has answered it for long
                if not await self._is_served():
                    return None
                await asyncio.sleep(wait_s)
            except errors.CoordError as exc:
                _log.debug("client.understood_unknown", error=exc)
                return None
        return 0

    async def _is_served(self) -> bool:
        """Whether somebody decides: every release answers this."""
        try:
            await rpc.call(self._conn, self._older, None, dict[str, Any], content="json")
        except errors.CoordError:
            return False
        return True
