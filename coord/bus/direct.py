"""Reading messages out of a stream without a consumer: batched direct get, and last by subject.

Any replica may answer a direct get, also one that lags: what it returns is right and
without holes as far as it goes, but that it returned nothing more proves nothing.  Whoever
has to vouch for an end asks the leader (`next_on_leader`, and the stream's info).
"""

from __future__ import annotations

import asyncio
import itertools
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection, Subscription
from coord.bus.patched import Message
from coord.wire import republished

_FEW_MAX: Final = 1_000
"""The broker gives no more than 1,024 subjects' last messages at once."""
_GETS_MAX: Final = 8
"""Subjects with several messages that `few` reads, one request each."""
_TOO_MANY: Final = 413
"""The broker's status where more than 1,024 subjects match."""


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """One message of a stream."""

    subject: str
    seq: int
    stored_at: datetime
    headers: bytes | None
    """The sender's header block; None when there was none."""
    body: bytes


class Batch(msgspec.Struct):
    """The answer to one batched get."""

    messages: list[StoredMessage]
    pending: int = 0
    """How many more match, as far as the replica that answered knows."""
    reached: int | None = None
    """Read up to here, where that is further than the last of `messages`."""


class _Collector:
    __slots__ = ("batch", "done")

    def __init__(self) -> None:
        self.batch = Batch([])
        self.done: asyncio.Future[Batch] = asyncio.get_running_loop().create_future()

    def receive(self, message: Message) -> None:
        if self.done.done():
            return
        status = _status(message)
        try:
            if status is None:
                part = republished.split(message.raw_headers)
                self._follows(part.subject_last_seq)
                self.batch.messages.append(_stored(part, message.data))
            elif status == 204:  # the end of the batch
                self._follows(int(message.headers.get("Nats-Last-Sequence", 0)))
                self.batch.pending = int(message.headers.get("Nats-Num-Pending", 0))
                self.done.set_result(self.batch)
            elif status == 404:  # nothing matches
                self.done.set_result(self.batch)
            elif status == 503:  # no responders
                self.done.set_exception(errors.ApiUnavailable("direct get is not answered"))
            else:
                description = message.headers.get("Description", "")
                self.done.set_exception(errors.BusError(f"direct get refused: {description}", status=status))
        except errors.WireError as exc:
            self.done.set_exception(errors.BusError(f"a direct get cannot be read: {exc.message}"))
        except errors.DeliveryGap as exc:
            self.done.set_exception(exc)

    def _follows(self, previous_seq: int) -> None:
        """Every part of the answer names the message before it: between servers one may get lost."""
        if previous_seq != (self.batch.messages[-1].seq if self.batch.messages else 0):
            raise errors.DeliveryGap("a part of a direct get is missing", previous_seq=previous_seq)


class DirectReader:
    """Batched direct gets of one connection.  `close` it before the connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._prefix = conn.new_inbox() + "."
        self._tokens = itertools.count()
        self._collectors: dict[str, _Collector] = {}
        self._subscription: Subscription | None = None
        self._lock = asyncio.Lock()
        self._unregister = conn.on_disconnected(self._disconnected)

    async def close(self) -> None:
        """Stop listening.  Twice is legal."""
        self._unregister()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def batch(
        self,
        stream: str,
        filter_subject: str,
        *,
        from_seq: int | None = None,
        from_time: datetime | None = None,
        messages_max: int,
        bytes_max: int = limits.READ_PAGE_BYTES_MAX,
        timeout_s: float = limits.API_TIMEOUT_S,
    ) -> Batch:
        """The messages that match from a sequence or time on, in order; always at least one if there is any.

        Raises `ApiUnavailable`, `DeadlineExceeded`, `NotConnected`, `DeliveryGap` when a part of the answer was
        lost on the way, or `BusError` for a refusal.
        """
        query: dict[str, Any] = {"batch": messages_max, "max_bytes": bytes_max, "next_by_subj": filter_subject}
        if from_time is not None:
            query["start_time"] = from_time.astimezone(UTC).isoformat().replace("+00:00", "Z")
        else:
            query["seq"] = max(1, from_seq or 1)
        return await self._get(stream, query, timeout_s)

    async def last_of_each(
        self,
        stream: str,
        filter_subject: str,
        *,
        bytes_max: int = limits.READ_PAGE_BYTES_MAX,
        timeout_s: float = limits.API_TIMEOUT_S,
    ) -> Batch:
        """The last message of every subject that matches, in order; `pending` where they are beyond `bytes_max`.

        Found by the broker's index of subjects: unlike `batch` it costs the same in a long log as in a short
        one (which the same up to some sequence does not).  For few subjects: beyond 1,024 the broker refuses.
        Raises like `batch`.
        """
        return await self._get(stream, {"multi_last": [filter_subject], "max_bytes": bytes_max}, timeout_s)

    async def _get(self, stream: str, query: dict[str, Any], timeout_s: float) -> Batch:
        await self._listen()
        token = str(next(self._tokens))
        collector = self._collectors[token] = _Collector()
        try:
            self._conn.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query), reply=self._prefix + token)
            async with asyncio.timeout(timeout_s):
                return await collector.done
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"no end of a direct get within {timeout_s:g} s", stream=stream) from exc
        finally:
            del self._collectors[token]

    async def _listen(self) -> None:
        async with self._lock:
            if self._subscription is None:
                self._subscription = await self._conn.subscribe(self._prefix + "*", self._receive)

    def _receive(self, message: Message) -> None:
        collector = self._collectors.get(message.subject[len(self._prefix) :])
        if collector is not None:
            collector.receive(message)

    def _disconnected(self) -> None:
        # The rest of a batch that was under way never comes.
        for collector in self._collectors.values():
            if not collector.done.done():
                collector.done.set_exception(errors.NotConnected())


async def few(
    conn: Connection,
    reader: DirectReader,
    stream: str,
    filter_subject: str,
    *,
    messages_max: int,
    timeout_s: float = limits.API_TIMEOUT_S,
) -> tuple[dict[str, Any], list[StoredMessage]] | None:
    """The leader's STREAM.INFO, and all messages that match up to the end that it names, where they are few.

    `batch` makes the broker compare every message of a long stream with the filter, 90 ns each; its index of
    subjects knows the few that match.  For filters whose first tokens are literal: an entity, a key.

    The leader says of each subject how many messages it has, and where the stream ends.  Whichever replica has
    given so many of a subject has given all up to there: replicas are beginnings of one another.  The last of
    each subject are asked for first: of too many the broker refuses that, while it would count 100,000 of them.

    None, after few requests: there are more than `messages_max` or a page's bytes, or several messages of more than
    8 subjects, or a replica lags, or a message left meanwhile or cannot be read.

    Raises what `Connection.api` and `DirectReader.batch` raise; `timeout_s` is for all of it.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _few(conn, reader, stream, filter_subject, min(messages_max, _FEW_MAX), timeout_s)
    except TimeoutError as exc:
        raise errors.DeadlineExceeded(f"no history within {timeout_s:g} s", stream=stream) from exc


async def _few(
    conn: Connection, reader: DirectReader, stream: str, filter_subject: str, messages_max: int, timeout_s: float
) -> tuple[dict[str, Any], list[StoredMessage]] | None:
    try:
        last = await reader.last_of_each(stream, filter_subject, timeout_s=timeout_s)
    except errors.BusError as exc:
        if exc.details.get("status") == _TOO_MANY:
            return None
        raise
    if last.pending or len(last.messages) > messages_max:
        return None
    answer = await conn.api(f"STREAM.INFO.{stream}", {"subjects_filter": filter_subject}, timeout_s=timeout_s)
    state = answer["state"]
    first_seq, last_seq, counts = int(state["first_seq"]), int(state["last_seq"]), state.get("subjects") or {}
    if sum(counts.values()) > messages_max:
        return None
    # One of a subject that was the last before is the only one, unless it has left the stream since.
    lasts = {m.subject: m for m in last.messages if first_seq <= m.seq <= last_seq}
    messages = [lasts[subject] for subject, count in counts.items() if count == 1 and subject in lasts]
    several = [subject for subject, count in counts.items() if count > 1 or subject not in lasts]
    if len(several) > _GETS_MAX:
        return None
    for subject in several:  # a literal subject is found by the index, too
        found = (await reader.batch(stream, subject, messages_max=_FEW_MAX, timeout_s=timeout_s)).messages
        if len(found) < counts[subject]:
            return None
        messages += [m for m in found if m.seq <= last_seq]
    return answer, sorted(messages, key=lambda m: m.seq)


def leadership(info: dict[str, Any]) -> str:
    """Who leads a stream with copies, and since when, from the answer to STREAM.INFO; empty without copies.

    Such a stream may have two leaders for a moment: one that was cut off, or stood still, believes
    to be it until it hears of the other.  Asked what comes next, it says "nothing" of an end that
    it has never seen.  Whoever concludes from two answers compares this before and after.
    """
    if int((info.get("config") or {}).get("num_replicas") or 1) < 2:
        return ""
    cluster = info.get("cluster") or {}
    return f"{cluster.get('leader', '')} {cluster.get('leader_since', '')}".strip()


async def next_on_leader(conn: Connection, stream: str, filter_subject: str, from_seq: int) -> StoredMessage | None:
    """The first message at or above `from_seq` that matches, as the stream's leader knows it."""
    request = {"seq": max(1, from_seq), "next_by_subj": filter_subject}
    try:
        answer = await conn.api(f"STREAM.MSG.GET.{stream}", request)
    except errors.ApiNotFound as exc:
        if exc.details.get("server_code") == 10037:  # no message found
            return None
        raise
    message = answer["message"]
    return StoredMessage(
        str(message["subject"]),
        int(message["seq"]),
        datetime.fromisoformat(message["time"]).astimezone(UTC),
        b64decode(message["hdrs"]) if message.get("hdrs") else None,
        b64decode(message.get("data") or ""),
    )


async def last_by_subject(
    conn: Connection, stream: str, subject: str, *, timeout_s: float = limits.API_TIMEOUT_S
) -> StoredMessage | None:
    """The newest message of one subject; the subject stands in the request's own, so permissions apply to it."""
    try:
        message = await conn.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", timeout_s=timeout_s)
    except errors.ServiceUnavailable as exc:
        raise errors.ApiUnavailable("direct get is not answered", stream=stream) from exc
    status = _status(message)
    if status == 404:
        return None
    if status is not None:
        raise errors.BusError(f"direct get refused: {message.headers.get('Description', '')}", stream=stream)
    try:
        return _stored(republished.split(message.raw_headers), message.data)
    except errors.WireError as exc:
        raise errors.BusError(f"a direct get cannot be read: {exc.message}", stream=stream) from exc


def _status(message: Message) -> int | None:
    """The broker's status; a stored message whose sender wrote a status line of its own has none."""
    return None if b"Nats-Stream: " in (message.raw_headers or b"") else message.status


def _stored(part: republished.Republished, body: bytes) -> StoredMessage:
    return StoredMessage(part.subject, part.seq, part.stored_at, part.headers, body)
