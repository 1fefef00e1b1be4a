"""What of a tenant is in the broker's streams, counted message by message: what the tables are compared with.

Agents cannot be asked: one that was killed does not say what it had stated.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from coord.bus.connection import Connection
from coord.bus.direct import DirectReader
from coord.query.reader import LogReader
from coord.wire import subjects
from coord.wire.decode import decode_message
from coord.wire.records import StoredSample

_PAGE = 500


class Stored(msgspec.Struct, frozen=True):
    """What the streams hold."""

    facts: int
    samples: int


async def stored(conn: Connection, tenant: str, until: datetime) -> Stored:
    """Everything of the tenant that was stored before `until` (the broker's clock)."""
    return Stored(await _facts(conn, tenant, until), await _samples(conn, tenant, until))


async def _facts(conn: Connection, tenant: str, until: datetime) -> int:
    reader, found = LogReader(conn), 0
    try:
        filters = subjects.log_filters(tenant)
        page = await reader.read(filters, "first", messages_max=_PAGE)
        end = page.info.last_seq
        while True:
            found += sum(fact.stored_at < until for fact in page.facts)
            if page.next.seq > end:
                return found
            page = await reader.read(filters, page.next, messages_max=_PAGE)
    finally:
        await reader.close()


async def _samples(conn: Connection, tenant: str, until: datetime) -> int:
    reader, found, at = DirectReader(conn), 0, 1
    info: dict[str, Any] = await conn.api(f"STREAM.INFO.{subjects.TELEMETRY}")
    end = info["state"]["last_seq"]
    try:
        while at <= end:
            batch = await reader.batch(
                subjects.TELEMETRY, subjects.samples_filter(tenant), from_seq=at, messages_max=_PAGE
            )
            for message in batch.messages:
                if message.stored_at < until:
                    entries = decode_message(
                        message.subject, message.headers, message.body, message.seq, message.stored_at
                    )
                    found += sum(isinstance(entry, StoredSample) for entry in entries)
            if not batch.messages:
                break
            at = batch.messages[-1].seq + 1
        return found
    finally:
        await reader.close()
