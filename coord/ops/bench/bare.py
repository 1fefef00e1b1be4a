"""What coord is measured against: the same work by hand, as well as the libraries allow.

`BareLoop` publishes ready messages with nats-py alone: one wildcard inbox for all acks, a
window of messages in flight, nothing awaited one by one.  It has nothing to encode, makes no
ids, reads no clock, resends nothing and looks at an ack only for an error.

`bare_copy` writes ready rows with asyncpg alone: one connection, one COPY a transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Self

import asyncpg
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from coord.ops.bench.measure import BenchError
from coord.wire.records import Encoded

WINDOW: Final = 2_048
"""Messages in flight: what coord allows critical facts.  The broker is saturated from about 1,000."""

TRANSACTION_ROWS: Final = 10_000
"""Rows of one transaction of `bare_copy`: what the projector allows itself at most."""

_ACK_S: Final = 60.0
"""How long all acks together may take: far more than they need."""


class BareLoop(AbstractAsyncContextManager["BareLoop"]):
    """See the module."""

    def __init__(self, url: str, *, window: int = WINDOW) -> None:
        self._url = url
        self._window = window
        self._client = Client()
        self._inbox = ""
        self._sent = 0
        self._acked = 0
        self._refused: bytes | None = None
        self._room = asyncio.Event()
        self._wanted = 0
        self._done = asyncio.Event()

    async def __aenter__(self) -> Self:
        # Subjects are ours: checking each with a regular expression would only slow this side down.
        self._client = await nats.connect(self._url, skip_subject_validation=True)
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_ack)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def publish(self, messages: Sequence[Encoded]) -> None:
        """Publish all and return when all are acknowledged; `BenchError` when one is refused."""
        publish, window, prefix = self._client.publish, self._window, self._inbox + "."
        self._wanted = self._sent + len(messages)
        self._done.clear()
        number = self._sent
        for message in messages:
            while number - self._acked >= window:
                self._room.clear()
                await self._room.wait()
            number += 1
            await publish(message.subject, message.body, f"{prefix}{number}", message.headers)
        self._sent = number
        try:
            async with asyncio.timeout(_ACK_S):
                while self._acked < self._sent:
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError as exc:
            raise BenchError("acks are missing", sent=self._sent, acked=self._acked) from exc
        if self._refused is not None:
            raise BenchError("the broker refused a message", answer=self._refused.decode("utf-8", "replace"))

    async def _on_ack(self, message: Msg) -> None:
        if b'"error"' in message.data or not message.data:
            self._refused = message.data
        self._acked += 1
        if not self._room.is_set():
            self._room.set()
        if self._acked >= self._wanted:
            self._done.set()


async def bare_copy(
    conn: asyncpg.Connection[asyncpg.Record], table: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]
) -> None:
    """Write ready rows in transactions of `TRANSACTION_ROWS`."""
    for start in range(0, len(rows), TRANSACTION_ROWS):
        async with conn.transaction():
            await conn.copy_records_to_table(
                table, schema_name="coord", columns=columns, records=rows[start : start + TRANSACTION_ROWS]
            )
