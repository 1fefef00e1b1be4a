r"""What the broker adds to a message that it republishes or hands out by direct get.

It appends its own headers behind the sender's::

    NATS/1.0\r\n {the sender's lines} Nats-Stream: EVENTS\r\n Nats-Subject: …\r\n
    Nats-Sequence: …\r\n Nats-Time-Stamp: …\r\n [Nats-Num-Pending: …\r\n] Nats-Last-Sequence: …\r\n \r\n

``split`` takes them apart again, so that every reader of a message (the projector, who
gets the sender's block alone, and a subscriber) judges the same bytes.  Only what stands
behind the *last* ``Nats-Stream`` is the broker's: a sender may have sent such headers too,
and may have sent a block without an end, which the broker completes with its own
(tests/integration/test_subscriber.py shows both against the real server).
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from coord.errors import InvalidEnvelope

_MARK = b"Nats-Stream: "
_BARE = b"NATS/1.0\r\n"


class Republished(msgspec.Struct, frozen=True, gc=False):
    """The broker's part of a header block, and the sender's."""

    stream: str
    subject: str
    """The stored subject."""
    seq: int
    stored_at: datetime
    subject_last_seq: int
    """The sequence before it on the same subject; 0 when there was none, or in a single direct get."""
    num_pending: int
    """Direct get: how many more match.  0 for a republished message."""
    headers: bytes | None
    """The sender's block as it was published; None when there was none."""


def split(raw: bytes | None) -> Republished:
    """Take the broker's headers off a block.  Raises `InvalidEnvelope` when they are not there."""
    at = raw.rfind(_MARK) if raw else -1
    if raw is None or at < 0:
        raise InvalidEnvelope("the broker's headers are missing: this is neither republished nor a direct get")
    sender = raw[:at]
    try:
        fields = dict(line.split(": ", 1) for line in raw[at:].decode().split("\r\n")[:-2])
        return Republished(
            fields["Nats-Stream"],
            fields["Nats-Subject"],
            int(fields["Nats-Sequence"]),
            datetime.fromisoformat(fields["Nats-Time-Stamp"]).astimezone(UTC),
            int(fields.get("Nats-Last-Sequence", 0)),
            int(fields.get("Nats-Num-Pending", 0)),
            None if sender == _BARE else sender + b"\r\n" if sender.endswith(b"\r\n") else sender,
        )
    except (KeyError, ValueError) as exc:
        raise InvalidEnvelope("the broker's headers cannot be read", error=f"{type(exc).__name__}: {exc}") from exc
