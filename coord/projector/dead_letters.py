"""Dead letters: what could not be believed, parked in the DLQ stream beside the table.

The copy in the stream is for whoever has no database.  It is published, acknowledged,
before the transaction that holds the row commits, with an id made from the row's identity:
a retry is recognised by the broker.  A DLQ that is full, absent, forbidden or mute never
blocks a partition: the table has the letter, the refusal is counted.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.projector.rows import Letter
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import headers as wire_headers
from coord.wire import subjects

_log = logs.get("projector")

_CONTROL = re.compile("[\x00-\x1f\x7f]")

_AT_A_TIME = 256
"""Publishes awaited together; a batch has at most a few thousand letters."""

_MUTE_S = 3 * limits.RPC_TIMEOUT_S
"""No answer for so long, and a connection that stands: no permission, or no stream but a listener."""

_MUTE_WAIT_S = 0.5
"""How long a batch waits for a DLQ that is mute, in case it speaks again."""


class DeadLetterQueue:
    """Publishes letters to the DLQ stream."""

    def __init__(self, conn: Connection, metrics: Metrics) -> None:
        self._conn = conn
        self._metrics = metrics
        self._mute_since: float | None = None

    async def publish(self, letters: Sequence[Letter]) -> None:
        """Return when each letter is stored or refused.

        Raises `NotConnected` or `DeadlineExceeded` when the broker is away: the batch is
        retried as a whole.  A broker that is there and does not answer is waited for during
        three such tries; from then on it has refused.
        """
        for start in range(0, len(letters), _AT_A_TIME):
            some = letters[start : start + _AT_A_TIME]
            wait_s = _MUTE_WAIT_S if self._is_mute() else limits.RPC_TIMEOUT_S
            # Each to its end: none may be left behind by one that fails.
            outcomes = await asyncio.gather(*(self._publish_one(x, wait_s) for x in some), return_exceptions=True)
            failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if len(failures) < len(some):
                self._mute_since = None
            for failure in failures:
                if not isinstance(failure, errors.DeadlineExceeded):
                    raise failure
            if not failures:
                continue
            if self._mute_since is None:
                self._mute_since = asyncio.get_running_loop().time()
            if not self._is_mute():
                raise failures[0]
            for letter, outcome in zip(some, outcomes, strict=True):
                if outcome is not None:
                    self._refused(letter, "no answer")
            for letter in letters[start + _AT_A_TIME :]:
                self._refused(letter, "no answer")
            return

    def _is_mute(self) -> bool:
        return self._mute_since is not None and asyncio.get_running_loop().time() - self._mute_since >= _MUTE_S

    async def _publish_one(self, letter: Letter, wait_s: float) -> None:
        subject = subjects.dlq(letter.row.stream, letter.row.tenant, letter.row.agent)
        block = wire_headers.encode(_headers(letter))
        body = letter.body
        room = self._conn.max_payload - len(block) - 1024
        try:
            message = await self._conn.request(subject, body[:room], headers=block, timeout_s=wait_s)
        except errors.ServiceUnavailable:
            self._refused(letter, "no stream takes dead letters")
            return
        try:
            error = msgspec.json.decode(message.data, type=dict[str, Any]).get("error")
            reason = str(error["description"]) if error else None
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            reason = "something that is not JetStream answered"
        if reason is not None:
            self._refused(letter, reason)

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
    """`text` as a header value takes it: nothing but printable ASCII, whatever an author wrote."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.encode("ascii", "backslashreplace").decode())[
        :1000
    ]
