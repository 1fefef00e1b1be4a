"""Dead letters: what could not be believed, parked in the DLQ stream beside the table.

The copy in the stream is for whoever has no database.  It is published, acknowledged,
before the transaction that holds the row commits, with an id made from the row's identity:
a retry is recognised by the broker.  A DLQ that is full or absent never blocks a partition:
the table has the letter, the refusal is counted.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.projector.rows import Letter
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import headers as wire_headers
from coord.wire import subjects

_log = logs.get("projector")

_AT_A_TIME = 256
"""Publishes awaited together; a batch has at most a few thousand letters."""


class DeadLetterQueue:
    """Publishes letters to the DLQ stream."""

    def __init__(self, conn: Connection, metrics: Metrics) -> None:
        self._conn = conn
        self._metrics = metrics

    async def publish(self, letters: Sequence[Letter]) -> None:
        """Return when each letter is stored or refused.

        Raises `NotConnected` or `DeadlineExceeded` when the broker is away: the batch is
        retried as a whole.
        """
        for start in range(0, len(letters), _AT_A_TIME):
            await asyncio.gather(*map(self._publish_one, letters[start : start + _AT_A_TIME]))

    async def _publish_one(self, letter: Letter) -> None:
        subject = subjects.dlq(letter.row.stream, letter.row.tenant, letter.row.agent)
        block = wire_headers.encode(_headers(letter))
        body = letter.body
        room = self._conn.max_payload - len(block) - 1024
        try:
            message = await self._conn.request(subject, body[:room], headers=block)
        except errors.ServiceUnavailable:
            self._refused(letter, "no stream takes dead letters")
            return
        answer = msgspec.json.decode(message.data)
        if "error" in answer:
            self._refused(letter, str(answer["error"].get("description")))

    def _refused(self, letter: Letter, reason: str) -> None:
        self._metrics.load_shed.labels(reason="dlq_refused").inc()
        _log.warning("projector.dlq_refused", stream=letter.row.stream, seq=letter.row.seq, reason=reason)


def _headers(letter: Letter) -> dict[str, str]:
    row = letter.row
    identity = f"{row.stream}.{row.epoch}.{row.seq}.{row.idx}"
    fields = {
        "Nats-Msg-Id": f"dlq.{identity}",
        "Coord-Dlq-Identity": identity,
        "Coord-Dlq-Code": row.code,
        "Coord-Dlq-Reason": _printable(row.reason),
        "Coord-Dlq-Subject": _printable(row.subject),
    }
    if letter.raw_headers:
        # As they came, malformed or not: a redrive needs them, a header line could not carry them.
        raw = letter.raw_headers[: limits.HEADERS_BYTES_MAX // 2]
        fields["Coord-Dlq-Headers"] = base64.b64encode(raw).decode("ascii")
    return fields


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii").replace("\r", " ").replace("\n", " ")[:1000]
