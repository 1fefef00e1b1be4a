"""Does the log have it? Asked before something is sent again that the broker would not recognise any more.

Two ways, both within what an agent is permitted (deploy/nats/nats.conf):

* the newest message of the record's own subject: only this agent writes there, so where it is the
  record, that is stored, and where there is none, or one from before the record was written, it is not;
* otherwise ``log.read``, from a while before the record was written on: it is in there or not stored.

Telemetry has only the first.  What neither answers is unknown, and whoever asked decides.
A replica that lags may say "not stored" of what is: direct gets are answered by any.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.bus.publish import AckPipeline, PubAck
from coord.core.spool import Record
from coord.runtime import clock
from coord.wire import headers as wire_headers
from coord.wire import log_api, republished, subjects
from coord.wire.log_api import Filter, PackedFact, ReadRequest
from coord.wire.subjects import FactSubject

_AT_ONCE: Final = 16
"""Subjects asked for at a time."""

_PATIENCE_S: Final = 10.0
_AGAIN_S: Final = 0.5
"""A broker that has just come back may not answer at first (an election): from the first question of a connection on
everything is asked again for so long, with so much between."""

_PAGES_MAX: Final = 200
"""Of `log.read` for one subject: 100,000 facts; beyond that it is unknown."""

_decode_fact = msgspec.msgpack.Decoder(PackedFact).decode


class Answer(msgspec.Struct):
    """About each record that was asked for: in `stored`, in `unknown`, or, in neither, not stored."""

    stored: dict[int, PubAck] = {}
    unknown: set[int] = set()


class Inquiry:
    """Asks for one publisher."""

    def __init__(self, conn: Connection, pipeline: AckPipeline) -> None:
        self._conn = conn
        self._pipeline = pipeline
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._patient_until: float | None = None

    def reconnected(self) -> None:
        """Who did not answer before may do so soon."""
        self._patient_until = None

    async def ask(self, records: dict[int, Record]) -> Answer:
        """About records by their numbers.  Raises `NotConnected`, `BusClosed`: ask again when there is a broker."""
        if self._patient_until is None:
            self._patient_until = clock.monotonic() + _PATIENCE_S
        by_subject: dict[str, dict[int, Record]] = {}
        for number, record in records.items():
            by_subject.setdefault(record.subject, {})[number] = record
        answer = Answer()
        lost = False
        try:
            async with asyncio.TaskGroup() as group:
                for subject, some in by_subject.items():
                    group.create_task(self._about(subject, some, answer), name="spool-ask")
        except* (errors.NotConnected, errors.BusClosed):
            lost = True
        if lost:
            raise errors.NotConnected
        return answer

    async def _about(self, subject: str, records: dict[int, Record], answer: Answer) -> None:
        try:
            at = subjects.parse_published(subject)
        except errors.WireError:
            answer.unknown.update(records)
            return
        stream = subjects.EVENTS if isinstance(at, FactSubject) else subjects.TELEMETRY
        async with self._slots:
            while True:
                last = await self._pipeline.last_stored(stream, at.stored)
                if last is not None and _decided(last, stream, records, answer):
                    return
                if isinstance(at, FactSubject) and await self._read(at, records, answer):
                    return
                nobody_else = last is not None and not isinstance(at, FactSubject)
                if nobody_else or clock.monotonic() + _AGAIN_S > (self._patient_until or 0.0):
                    break
                await asyncio.sleep(_AGAIN_S)
        answer.unknown.update(number for number in records if number not in answer.stored)

    async def _read(self, at: FactSubject, records: dict[int, Record], answer: Answer) -> bool:
        """Look through the log; False: it was not read to its end."""
        wanted = {record.event_id: number for number, record in records.items()}
        since = datetime.fromtimestamp(min(r.at_ms for r in records.values()) / 1000, UTC)
        which = Filter(key=at.key, kind=at.kind, id=at.id, agent=at.agent, event=at.event)
        request = ReadRequest(filter=which, from_time=since - timedelta(seconds=limits.CLOCKS_APART_S))
        service = subjects.rpc(at.tenant, "log", "read")
        try:
            for _ in range(_PAGES_MAX):
                page = await rpc.call(self._conn, service, request, log_api.Page)
                for raw in page.facts:
                    fact = _decode_fact(raw)
                    message_id = fact.event_id.removesuffix(f"/{fact.index}")
                    number = wanted.get(fact.event_id, wanted.get(message_id))
                    if number is not None:
                        answer.stored[number] = PubAck(subjects.EVENTS, fact.seq, duplicate=True)
                if page.next_seq > page.last_seq:
                    return True
                request = ReadRequest(filter=which, from_seq=page.next_seq, from_index=page.next_index)
        except (errors.NotConnected, errors.BusClosed):
            raise
        except (errors.CoordError, msgspec.MsgspecError):
            return False
        return False


def _decided(last: Message, stream: str, records: dict[int, Record], answer: Answer) -> bool:
    """What the newest message of a subject says; False where it leaves something open."""
    if last.status == 404:
        return True
    try:
        part = republished.split(last.raw_headers)
        stored_id = wire_headers.parse(part.headers or b"").fields.get(wire_headers.MSG_ID)
    except errors.WireError:
        return False
    for number, record in records.items():
        if stored_id is not None and stored_id == _message_id(record):
            answer.stored[number] = PubAck(stream, part.seq, duplicate=True)
            return len(records) == 1  # whether those before it are stored too it does not say
    written_at = datetime.fromtimestamp(min(r.at_ms for r in records.values()) / 1000, UTC)
    return part.stored_at < written_at - timedelta(seconds=limits.CLOCKS_APART_S)


def _message_id(record: Record) -> str | None:
    try:
        return wire_headers.parse(record.headers).fields.get(wire_headers.MSG_ID)
    except errors.WireError:
        return None
