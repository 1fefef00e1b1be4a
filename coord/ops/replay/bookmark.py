"""How far a replay has got: one message in stream CURSORS, overwritten.

It is written *ahead*: before any statement of a stretch is published, the bookmark says how
far that stretch goes.  After a crash, what is before `done` is stored, what is after `ahead`
is not, and only what lies between has to be looked for in the log.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import msgspec

from coord import errors
from coord.bus.connection import Connection
from coord.client.cursor_message import CursorMessage

AGENT = "replay"
"""The name under which bookmarks are kept."""


class Bookmark(msgspec.Struct, frozen=True, kw_only=True):
    """The body of the message, JSON; only grows."""

    digest: str
    """SHA-256 of the recording."""
    format: str
    holder: str = ""
    done: int = 0
    """Statements from the first on that are all stored,"""
    ahead: int = 0
    """and the first that nobody has begun to publish."""
    since: datetime
    """Nothing from `done` on was stored before this."""
    started_at: datetime
    saved_at: datetime
    shift_us: int = 0
    """Added to recorded times."""
    complete: bool = False


class Bookmarks:
    """The bookmark of one run in one tenant; whoever opened it last holds it."""

    def __init__(self, conn: Connection, tenant: str, run: str) -> None:
        self._holder = secrets.token_hex(8)
        self._message = CursorMessage(conn, tenant, AGENT, run, Bookmark)

    async def load(self) -> Bookmark | None:
        """What the run's last replay left; None when there was none within CURSORS' `max_age`.

        Raises `CursorUnreadable`, and `ApiUnavailable` (retryable) when CURSORS does not answer.
        """
        return await self._message.load()

    async def save(self, bookmark: Bookmark) -> Bookmark:
        """Write it; `ReplayTakenOver` when another process has written since we did."""
        saved = msgspec.structs.replace(bookmark, holder=self._holder, saved_at=datetime.now(UTC))
        other = await self._message.put_as_holder(saved)
        if other is not None:
            raise errors.ReplayTakenOver(saved_at=other.saved_at.isoformat())
        return saved
