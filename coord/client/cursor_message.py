"""One message of stream CURSORS, overwritten by whoever holds it: a position that only one process may move.

Every write demands to be the successor of the one this process saw last (optimistic
concurrency), and carries who wrote it.  So the newest that opens a name takes it over, and the
older one learns it with its next write instead of pushing the position about.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import msgspec

from coord import errors, limits
from coord.bus import direct, errors_map
from coord.bus.connection import Connection
from coord.wire import headers, subjects


class Held(Protocol):
    """A body that says who wrote it."""

    @property
    def holder(self) -> str:
        """A random id per process that writes."""
        ...


HeldT = TypeVar("HeldT", bound=Held)


class CursorMessage(Generic[HeldT]):
    """The message of `name` of one agent in one tenant, with a JSON body of type `body`."""

    def __init__(self, conn: Connection, tenant: str, agent: str, name: str, body: type[HeldT]) -> None:
        self.name = name
        self._conn = conn
        self._subject = subjects.cursor(tenant, agent, name)
        self._decoder = msgspec.json.Decoder(body)
        self._last_seq = 0
        self.subjects = {self._subject, f"$js.api.direct.get.{subjects.CURSORS.lower()}.{self._subject}"}
        """What this needs permission to publish to, in the broker's lower-cased spelling."""

    async def load(self) -> HeldT | None:
        """What was written last, after which the next `put` has to come; None: nothing within CURSORS' `max_age`.

        Raises `CursorUnreadable`, and `ApiUnavailable` (retryable) when CURSORS does not answer.
        """
        message = await direct.last_by_subject(self._conn, subjects.CURSORS, self._subject)
        self._last_seq = 0 if message is None else message.seq
        if message is None:
            return None
        try:
            return self._decoder.decode(message.body)
        except msgspec.DecodeError as exc:
            raise errors.CursorUnreadable(name=self.name, subject=self._subject, error=str(exc)) from exc

    async def put(self, body: HeldT) -> None:
        """Write; `WrongLastSequence` when something was written since we last read or wrote."""
        block = headers.encode({headers.EXPECTED_LAST_SUBJECT_SEQ: str(self._last_seq)})
        try:
            message = await self._conn.request(
                self._subject, msgspec.json.encode(body), headers=block, timeout_s=limits.API_TIMEOUT_S
            )
        except errors.ServiceUnavailable as exc:
            raise errors.ApiUnavailable("CURSORS does not answer", subject=self._subject) from exc
        answer = _decode_answer(message.data)
        if answer.error:
            raise errors_map.publish_error(answer.error, self._subject)
        self._last_seq = answer.seq

    async def put_as_holder(self, body: HeldT) -> HeldT | None:
        """Write, unless another holder has written meanwhile: then what it wrote, and nothing is changed.

        What was written by ourselves while its ack was lost, or has expired, is in nobody's way.
        """
        try:
            await self.put(body)
        except errors.WrongLastSequence:
            known = await self.load()
            if known is not None and known.holder != body.holder:
                return known
            await self.put(body)
        return None


class _Answer(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
