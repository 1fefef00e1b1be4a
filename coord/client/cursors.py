"""Where a durable subscription keeps its position: one message, overwritten, in stream CURSORS.

A bookmark, not coordination: losing it means reading again, never missing anything.  So it
may lag behind the consumer, but must never run ahead of it.  Two subscriptions under one
name would push each other's bookmark ahead; therefore every save demands to be the
successor of this holder's last one (optimistic concurrency), and the newest to open the
cursor takes it over: the older one learns it with `DurableInUse` at its next save.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from coord import errors, limits
from coord.bus import direct, errors_map
from coord.bus.connection import Connection
from coord.core.subscription import Position
from coord.telemetry import logs
from coord.wire import headers as wire_headers
from coord.wire import subjects

_log = logs.get("subscriber")
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


class _Answer(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_record = msgspec.json.Decoder(CursorRecord).decode


class Cursor:
    """One durable name of one agent, as held by one subscription (`holder`: unique)."""

    def __init__(self, conn: Connection, tenant: str, agent: str, name: str, holder: str) -> None:
        self.name = name
        self._conn = conn
        self._subject = subjects.cursor(tenant, agent, name)
        self._holder = holder
        self._last_seq = 0
        self.subjects = {self._subject, f"$js.api.direct.get.{subjects.CURSORS.lower()}.{self._subject}"}
        """What this needs permission to publish to, in the broker's lower-cased spelling."""

    async def open(self) -> CursorRecord | None:
        """Take over the saved position; None when nothing was saved under this name.

        Raises `ApiUnavailable` (retryable) when CURSORS does not answer, and
        `DurableInUse` when others keep taking it over at the same time.
        """
        for _ in range(_TAKE_OVER_TRIES):
            record = await self._load()
            if record is None:
                return None
            try:
                await self._put(record.position, record.created)
            except errors.WrongLastSequence:
                continue
            return record
        raise errors.DurableInUse(durable=self.name)

    async def save(self, position: Position, created: str) -> None:
        """Save, unless another subscription has taken the name over: then `DurableInUse`."""
        try:
            await self._put(position, created)
        except errors.WrongLastSequence as exc:
            # Either an earlier save of ours was stored and its ack lost, or the message has
            # expired, or somebody else holds the name.
            record = await self._load()
            if record is not None and record.holder != self._holder:
                raise errors.DurableInUse(durable=self.name, holder=record.holder) from exc
            await self._put(position, created)

    async def _load(self) -> CursorRecord | None:
        message = await direct.last_by_subject(self._conn, subjects.CURSORS, self._subject)
        self._last_seq = 0 if message is None else message.seq
        if message is None:
            return None
        try:
            return _decode_record(message.body)
        except msgspec.DecodeError as exc:
            raise errors.CursorUnreadable(durable=self.name, error=str(exc)) from exc

    async def _put(self, position: Position, created: str) -> None:
        record = CursorRecord(
            seq=position.seq,
            index=position.index,
            created=created,
            holder=self._holder,
            saved_at=datetime.now(UTC),
        )
        block = wire_headers.encode({wire_headers.EXPECTED_LAST_SUBJECT_SEQ: str(self._last_seq)})
        try:
            message = await self._conn.request(
                self._subject, msgspec.json.encode(record), headers=block, timeout_s=limits.API_TIMEOUT_S
            )
        except errors.ServiceUnavailable as exc:
            raise errors.ApiUnavailable("CURSORS does not answer", subject=self._subject) from exc
        answer = _decode_answer(message.data)
        if answer.error:
            raise errors_map.publish_error(answer.error, self._subject)
        self._last_seq = answer.seq
