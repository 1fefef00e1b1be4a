"""Making sure that a capability's queues exist: asked of the service once per capability and connection.

A submission is a fact whether or not its queues exist: where no service answers, it waits in the
log, and the decider makes the queues from it on.  So nobody fails here; who pulls asks again.
"""

from __future__ import annotations

from typing import Any

from coord import errors
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.telemetry import logs
from coord.wire import subjects

_log = logs.get("client")


class Queues:
    """Of one tenant on one connection."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self._conn = conn
        self._service = subjects.rpc(tenant, "task", "open")
        self._opened: set[str] = set()

    async def open(self, capability: str, *, again: bool = False) -> bool:
        """Ask for the queues of a capability; `again`: though they were there.  False: nobody answered.

        Raises what the service refuses it with: `InvalidToken`, `Overloaded` for too many capabilities.
        """
        if capability in self._opened and not again:
            return True
        self._opened.discard(capability)
        try:
            await rpc.call(self._conn, self._service, {"capability": capability}, dict[str, Any], content="json")
        except (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.CircuitOpen, errors.NotConnected) as exc:
            _log.info("client.queues_not_asked_for", capability=capability, error=exc.code)
            return False
        self._opened.add(capability)
        return True
