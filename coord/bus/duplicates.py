"""What an unexpected ``duplicate`` means: the same fact again, or another one under its id.

The broker recognises a repeat by ``Nats-Msg-Id`` alone and drops it with a friendly ack.  On
a resend that is what we want.  On a first send somebody used the id before: the same fact
stated again (fine), or a different one (which would be lost without a word).  So the stored
message is read back and compared: by the last-by-subject direct get where that is it, which
a server can permit for an agent's own subjects, else by sequence.

Who may read neither learns that the id is taken and that nobody compared.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

from coord import errors
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.core.retry import backoff_s
from coord.runtime import clock
from coord.wire import headers as wire_headers
from coord.wire import subjects

if TYPE_CHECKING:
    from coord.bus.publish import PubAck

_ANSWER_S: Final = 2.0
"""How long one direct get may take."""


class DuplicateJudge:
    """Compares for one pipeline, which bounds how many comparisons run at a time."""

    def __init__(self, conn: Connection, rng: random.Random) -> None:
        self.asked = 0
        """Comparisons begun, ever."""
        self._conn = conn
        self._rng = rng
        self._asking: dict[str, set[asyncio.Task[Message]]] = {}
        self._unreadable: set[str] = set()

    def denied(self, subject: str) -> bool:
        """The broker refused a subject (lower-cased); True if it was one of our questions."""
        asking = self._asking.get(subject)
        if asking is None:
            return False
        if subject.count(".") == 4:  # by sequence: one subject for all messages of a stream
            self._unreadable.add(subject)
        for request in asking:
            request.cancel()
        return True

    def reconnected(self) -> None:
        """Permissions may have changed."""
        self._unreadable.clear()

    async def judge(
        self, subject: str, headers: bytes | None, body: bytes, ack: PubAck, deadline_at: float
    ) -> errors.CoordError | None:
        """None if the stored message is the one described, else what is wrong.

        `deadline_at` (monotonic seconds) bounds how long a broker that is away is waited for.
        """
        self.asked += 1
        attempt = 0
        while True:
            try:
                stored = await self._stored(subject, ack)
            except (errors.NotConnected, errors.DeadlineExceeded) as exc:
                attempt += 1
                wait_s = backoff_s(attempt, self._rng, first_s=0.05, most_s=1.0)
                if clock.monotonic() + wait_s >= deadline_at:
                    error = errors.PublishTimeout(
                        "a fact is stored under this id; the broker went away before it could be compared",
                        subject=subject, stream=ack.stream, seq=ack.seq,
                    )  # fmt: skip
                    error.__cause__ = exc
                    return error
                await asyncio.sleep(wait_s)
                continue
            except errors.BusClosed as exc:
                return exc
            return _verdict(stored, subject, headers, body, ack)

    async def _stored(self, subject: str, ack: PubAck) -> Message | None:
        """The stored message of `ack`; None when it may not or cannot be read."""
        get = f"$JS.API.DIRECT.GET.{ack.stream}"
        last = await self._ask(f"{get}.{_stored_subject(subject)}", b"")
        if last is not None and last.headers.get("Nats-Sequence") == str(ack.seq):
            return last
        return await self._ask(get, b'{"seq":%d}' % ack.seq)

    async def last(self, stream: str, stored_subject: str) -> Message | None:
        """The newest message of a subject, or a 404; None where it is not answered.  `NotConnected`, `BusClosed`."""
        try:
            return await self._answer(f"$JS.API.DIRECT.GET.{stream}.{stored_subject}", b"")
        except errors.DeadlineExceeded:
            return None

    async def _ask(self, subject: str, body: bytes) -> Message | None:
        """One direct get; None when it is not permitted, has no responder or finds nothing."""
        message = await self._answer(subject, body)
        return message if message is not None and message.status is None else None

    async def _answer(self, subject: str, body: bytes) -> Message | None:
        """One direct get, whatever it finds; None when it is not permitted or has no responder."""
        name = subject.lower()
        if name in self._unreadable:
            return None
        request = asyncio.get_running_loop().create_task(self._conn.request(subject, body, timeout_s=_ANSWER_S))
        self._asking.setdefault(name, set()).add(request)
        try:
            message = await request
        except asyncio.CancelledError:
            task: asyncio.Task[Any] | None = asyncio.current_task()
            if task is not None and task.cancelling():
                request.cancel()
                raise
            return None  # `denied`
        except errors.ServiceUnavailable:
            return None
        finally:
            asking = self._asking[name]
            asking.discard(request)
            if not asking:
                del self._asking[name]
        return message


def _verdict(
    stored: Message | None, subject: str, headers: bytes | None, body: bytes, ack: PubAck
) -> errors.IdCollision | None:
    if stored is None:
        return errors.IdCollision(
            "a fact is stored under this event id and may not be read back to compare",
            subject=subject, stream=ack.stream, seq=ack.seq, compared=False,
        )  # fmt: skip
    theirs = stored.headers
    try:
        ours = wire_headers.parse(headers or b"").fields.get(wire_headers.MSG_ID)
    except errors.WireError:
        ours = None
    if (
        stored.data == body
        and theirs.get(wire_headers.MSG_ID) == ours
        and theirs.get("Nats-Subject") == _stored_subject(subject)
    ):
        return None
    return errors.IdCollision(
        subject=subject, stream=ack.stream, seq=ack.seq, stored_subject=theirs.get("Nats-Subject", "")
    )


def _stored_subject(subject: str) -> str:
    """Where the stream keeps what is published to `subject`."""
    try:
        return subjects.parse_published(subject).stored
    except errors.WireError:
        return subject  # not a fact: stored as it is
