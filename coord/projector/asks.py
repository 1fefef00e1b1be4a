"""Asking agents to state their whole status, where the table's has become stale.

After the commit that found a change missing, and with every later one of that agent until it
is mended.  A question may be lost: the table says that the status is stale, and the agent
states all of it now and then anyway.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from coord import errors, limits
from coord.bus.connection import Connection
from coord.wire import subjects


class StatusAsks:
    """Sends the questions of one process; one agent is asked at most once in `limits.STATUS_ASK_FIRST_S`."""

    def __init__(self, conn: Connection, now: Callable[[], float] = time.monotonic) -> None:
        self.sent = 0
        self._conn = conn
        self._now = now
        self._asked: OrderedDict[tuple[str, str], float] = OrderedDict()
        """(tenant, agent) → when, oldest first; kept no longer than it matters."""

    def __call__(self, stale: Sequence[tuple[str, str]]) -> None:
        """Ask the agents whose status became or stayed stale: (tenant, agent)."""
        now = self._now()
        while self._asked and next(iter(self._asked.values())) <= now - limits.STATUS_ASK_FIRST_S:
            self._asked.popitem(last=False)
        for name in stale:
            if name in self._asked or len(self._asked) >= limits.STATUS_AGENTS_MAX:
                continue
            try:
                self._conn.publish(subjects.ask(*name, "status"))
            except errors.CoordError:
                return  # disconnected
            self._asked[name] = now
            self.sent += 1
