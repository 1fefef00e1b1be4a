"""How far a replay has got: one message in stream CURSORS, overwritten.

It is written *ahead*: before any statement of a stretch is published, the bookmark says how
far that stretch goes.  After a crash, what is before `done` is stored, what is after `ahead`
is not, and only what lies between has to be looked for in the log.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import msgspec

from coord import errors, limits
from coord.bus import direct, errors_map
from coord.bus.connection import Connection
from coord.wire import headers, subjects

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
        self._conn = conn
        self._subject = subjects.cursor(tenant, AGENT, run)
        self._holder = secrets.token_hex(8)
        self._last_seq = 0

    async def load(self) -> Bookmark | None:
        """What the run's last replay left; None when there was none within CURSORS' `max_age`."""
        message = await direct.last_by_subject(self._conn, subjects.CURSORS, self._subject)
        self._last_seq = 0 if message is None else message.seq
        if message is None:
            return None
        try:
            return msgspec.json.decode(message.body, type=Bookmark)
        except msgspec.DecodeError as exc:
            raise errors.CursorUnreadable(run=self._subject, error=str(exc)) from exc

    async def save(self, bookmark: Bookmark) -> Bookmark:
        """Write it; `ReplayTakenOver` when another process has written since we did."""
        saved = msgspec.structs.replace(bookmark, holder=self._holder, saved_at=datetime.now(UTC))
        try:
            await self._put(saved)
        except errors.WrongLastSequence as exc:
            # Perhaps our own, stored while its ack was lost.
            known = await self.load()
            if known is not None and known.holder != self._holder:
                raise errors.ReplayTakenOver(saved_at=known.saved_at.isoformat()) from exc
            await self._put(saved)
        return saved

    async def _put(self, bookmark: Bookmark) -> None:
        block = headers.encode({headers.EXPECTED_LAST_SUBJECT_SEQ: str(self._last_seq)})
        try:
            message = await self._conn.request(
                self._subject, msgspec.json.encode(bookmark), headers=block, timeout_s=limits.API_TIMEOUT_S
            )
        except errors.ServiceUnavailable as exc:
            raise errors.ApiUnavailable("CURSORS does not answer", subject=self._subject) from exc
        answer = msgspec.json.decode(message.data, type=_Answer)
        if answer.error:
            raise errors_map.publish_error(answer.error, self._subject)
        self._last_seq = answer.seq


class _Answer(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None
