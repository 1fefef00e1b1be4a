"""Where a durable subscription keeps its position: one message, overwritten, in stream CURSORS.

A bookmark, not coordination: losing it means reading again, never missing anything.  So it
may lag behind the consumer, but must never run ahead of it.  Two subscriptions under one
name would push each other's bookmark ahead; therefore the newest to open the cursor takes it
over: the older one learns it with `DurableInUse` at its next save.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from coord import errors
from coord.bus.connection import Connection
from coord.client.cursor_message import CursorMessage
from coord.core.subscription import Position
from coord.runtime import clock

_TAKE_OVER_TRIES = 5


class CursorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a cursor message, JSON; only grows."""

    seq: int
    """The first stream sequence that is not finished,"""
    index: int = 0
    """and in its frame the first entry that is not."""
    created: str = ""
    """The creation time of the stream these belong to."""
    holder: str = ""
    """Who saved it last: a random id per subscription."""
    saved_at: datetime | None = None

    @property
    def position(self) -> Position:
        """The first entry that is not finished."""
        return Position(self.seq, self.index)


class Cursor:
    """One durable name of one agent, as held by one subscription (`holder`: unique)."""

    def __init__(self, conn: Connection, tenant: str, agent: str, name: str, holder: str) -> None:
        self.name = name
        self._holder = holder
        self._message = CursorMessage(conn, tenant, agent, name, CursorRecord)
        self.subjects = self._message.subjects
        """What this needs permission to publish to, in the broker's lower-cased spelling."""

    async def open(self) -> CursorRecord | None:
        """Take over the saved position; None when nothing was saved under this name.

        Raises `ApiUnavailable` (retryable) when CURSORS does not answer, `CursorUnreadable`, and
        `DurableInUse` when others keep taking it over at the same time.
        """
        for _ in range(_TAKE_OVER_TRIES):
            record = await self._message.load()
            if record is None:
                return None
            try:
                await self._message.put(self._record(record.position, record.created))
            except errors.WrongLastSequence:
                continue
            return record
        raise errors.DurableInUse(durable=self.name)

    async def save(self, position: Position, created: str) -> None:
        """Save, unless another subscription has taken the name over: then `DurableInUse`."""
        other = await self._message.put_as_holder(self._record(position, created))
        if other is not None:
            raise errors.DurableInUse(durable=self.name, holder=other.holder)

    def _record(self, position: Position, created: str) -> CursorRecord:
        return CursorRecord(
            seq=position.seq,
            index=position.index,
            created=created,
            holder=self._holder,
            saved_at=clock.utc_now(),
        )
