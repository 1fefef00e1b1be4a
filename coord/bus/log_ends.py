"""Where the log ends for what is asked: the last fact under a filter, from the broker's index of subjects.

For whoever may use the JetStream API of EVENTS: coord itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from coord import errors
from coord.bus.connection import Connection
from coord.bus.direct import leadership
from coord.core.proving import LogEnds
from coord.wire import subjects, times

_INFO = f"STREAM.INFO.{subjects.EVENTS}"


class Log:
    """EVENTS, as a tenant's caches ask it."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self.tenant = tenant
        self._conn = conn

    async def ends(self, filters: Collection[str], /) -> LogEnds:
        """Raises what `Connection.api` raises, and `ApiUnavailable` while the stream changes its leader."""
        before = leadership(await self._conn.api(_INFO)) if self._conn.is_clustered else ""
        found = await asyncio.gather(*map(self._last, filters))
        # Asked last: what was in the log when it was asked for the last facts is not before this first sequence.
        info = await self._conn.api(_INFO)
        if self._conn.is_clustered and leadership(info) != before:
            raise errors.ApiUnavailable("the log has another leader")
        state = info["state"]
        return LogEnds(
            int(state["first_seq"]), int(state["last_seq"]), dict(zip(filters, found, strict=True)),
            times.format_time(times.parse_time(info["created"])),
        )  # fmt: skip

    async def _last(self, filter_: str) -> int | None:
        try:
            answer = await self._conn.api(f"STREAM.MSG.GET.{subjects.EVENTS}", {"last_by_subj": filter_})
        except errors.ApiNotFound:
            return None
        return int(answer["message"]["seq"])
