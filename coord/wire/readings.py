"""What was read of messages lately, for the second reader of the same process.

Deciders and projector follow the same log, a few milliseconds apart.  Whoever comes first to a message reads it
(`coord.wire.usual`) and leaves what it says; the other takes it.  Where both are given the very same delivery
(`coord.bus.riding`) it is left there; where each has its own connection, here.

What is taken here was read of the same bytes: place, subject, headers and body are compared, so nobody ever
gets what another message said.  Bounded by count and by the size of what is kept here: a reader that has nobody
behind it only makes older readings fall out.  What is left with a delivery goes with it, and is bounded as they are.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final, Literal, Protocol, TypeAlias

from coord import limits
from coord.wire import usual
from coord.wire.usual import UsualFact

_KIND: Final = usual.FIELDS.index("kind")


Reading: TypeAlias = UsualFact | Literal["unread", "unusual"] | None
"""What is known of a delivery that two are given; None: nobody else is given it."""


class Delivered(Protocol):
    """What a reader is given."""

    seq: int
    subject: str
    raw_headers: bytes | None
    data: bytes
    reading: Reading


class Readings:
    """Of one stream; not for two threads."""

    __slots__ = ("_kept", "_kinds", "taken")

    def __init__(self, kinds: AbstractSet[str]) -> None:
        """`kinds`: of facts that both read; of others nothing is kept."""
        self.taken = 0
        """How many were read once for both."""
        self._kinds = kinds
        self._kept: dict[int, tuple[str, bytes | None, bytes, UsualFact]] = {}
        """By sequence, the oldest reading first."""

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, delivery: Delivered) -> UsualFact | None:
        """`usual.read` of a delivery."""
        reading = delivery.reading
        if reading is None:
            return self.read(delivery.seq, delivery.subject, delivery.raw_headers, delivery.data)
        if reading == "unread":
            fact = usual.read(delivery.subject, delivery.raw_headers, delivery.data)
            if fact is None:
                delivery.reading = "unusual"
            elif len(delivery.data) <= limits.READING_BYTES_MAX:
                delivery.reading = fact
            return fact
        self.taken += 1
        return None if reading == "unusual" else reading

    def read(self, seq: int, subject: str, raw_headers: bytes | None, body: bytes) -> UsualFact | None:
        """`usual.read` of the message at `seq`."""
        kept = self._kept.pop(seq, None)
        if kept is not None and kept[2] == body and kept[1] == raw_headers and kept[0] == subject:
            self.taken += 1
            return kept[3]
        fact = usual.read(subject, raw_headers, body)
        if fact is not None and fact[_KIND] in self._kinds and len(body) <= limits.READING_BYTES_MAX:
            if len(self._kept) >= limits.READINGS_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[seq] = subject, raw_headers, body, fact
        return fact
