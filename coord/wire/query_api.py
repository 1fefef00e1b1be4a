"""Asking the query service: ``coord.rpc.{tenant}.query.{name}`` (docs/protocol.md §10.1).

Three texts in here are the service's own, and nobody else looks into them: an *ETag*, a position to go on from, and
the digest that both carry of what was asked.  An ETag is a watermark: up to where the tables were read, of the
partitions that the answer depends on, and when.  So whichever instance is shown one can say whether the answer still
holds by what it has heard since, without having the answer and without asking the database.

Structs here only grow, with defaults: readers of other releases and languages decode them.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

import msgspec

from coord import limits
from coord.wire import subjects

T = TypeVar("T")

Value: TypeAlias = str | int | float | bool | None
"""Of a parameter; None: as if it were not given."""

Marks: TypeAlias = Mapping[tuple[str, int], tuple[int, int]]
"""(stream, partition) → (epoch, sequence) up to which the tables had everything."""

Watermark: TypeAlias = dict[str, dict[int, tuple[int, int]]]
"""The same as an answer spells it: stream → partition → (epoch, sequence)."""

_DIGEST_BYTES: Final = 8


class Since(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A fact that the answer has to have seen."""

    key: str
    """Its ordering key; of telemetry: its agent."""
    seq: int
    """What publishing it returned."""
    stream: str = subjects.EVENTS
    epoch: int | None = None
    """In which incarnation of the log that is, as answers' watermarks say it; None: it is not known."""


class QueryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of an answer.  Everything may be left out."""

    params: dict[str, Value] = {}
    """The question's parameters but the tenant, which is the subject's."""
    rows: int = limits.QUERY_PAGE_ROWS
    """At most so many, 1 to 1,000; an answer may hold fewer though more follow."""
    after: str | None = None
    """`next` of the page before."""
    etag: str | None = None
    """Of an answer that the caller has: where it still holds, that is said instead of it."""
    min_watermark: Since | None = None
    """Wait, a few seconds at most, until the tables have this fact."""


class QueryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The page, or that nothing has changed."""

    etag: str
    read_at: datetime
    """When the tables were read, by the service's clock."""
    modified: bool = True
    """False: what the request's `etag` came with still holds; rows, columns and `next` are left out."""
    columns: list[tuple[str, str]] = []
    """(name, PostgreSQL's type); an array's type ends in ``[]``."""
    rows: list[msgspec.Raw] = []
    """Objects, a field for each column."""
    next: str | None = None
    """Where to go on; None: this was the last page."""
    moved: bool = False
    """The answer has changed since the page before: rows may come twice, or not at all."""
    watermark: msgspec.Raw = msgspec.Raw(b"{}")
    """`Watermark`: where the tables were read; of what still holds, of the partitions that matter to it."""


class Etag(msgspec.Struct, frozen=True, array_like=True):
    """What an ETag says."""

    asked: bytes
    """Digest of tenant, question, parameters and page."""
    content: bytes
    """Digest of the rows that the page was cut from."""
    read_at_ms: int
    marks: bytes
    """Packed `Watermark` of the partitions that the answer depends on."""

    def __str__(self) -> str:
        return _text(self)


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a page begins."""

    asked: bytes
    """Digest of tenant, question and parameters: a position of another question is refused."""
    start: int = 0
    """The row with which the piece begins that was loaded at once,"""
    offset: int = 0
    """and the row of that."""
    seen: bytes = b""
    """What was read so far: another value means that the answer has changed."""

    def __str__(self) -> str:
        return _text(self)


def pack(marks: Marks, sources: Collection[tuple[str, int]] | None = None) -> bytes:
    """A `Watermark` in MessagePack: of these sources, or of all."""
    made: Watermark = {}
    for (stream, partition), place in sorted(marks.items()):
        if sources is None or (stream, partition) in sources:
            made.setdefault(stream, {})[partition] = place
    return msgspec.msgpack.encode(made)


def unpack(packed: bytes) -> dict[tuple[str, int], tuple[int, int]]:
    """What `pack` packed; raises `msgspec.MsgspecError` for anything else."""
    return {
        (stream, partition): place
        for stream, places in as_watermark(packed).items()
        for partition, place in places.items()
    }


def as_watermark(packed: bytes) -> Watermark:
    """What `pack` packed, as an answer spells it."""
    return _watermark.decode(packed)


_watermark = msgspec.msgpack.Decoder(Watermark)
_etag = msgspec.msgpack.Decoder(Etag)
_position = msgspec.msgpack.Decoder(Position)


def read_etag(text: str) -> Etag | None:
    """What it says; None where it is none of ours: then it fits nothing."""
    return _read(_etag, text)


def read_position(text: str) -> Position | None:
    """What it says; None where it is none."""
    found = _read(_position, text)
    return None if found is None or found.start < 0 or found.offset < 0 else found


def digest(*parts: Iterable[bytes]) -> bytes:
    """Of lists of parts: no two different lists share one."""
    made = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        for piece in part:
            made.update(len(piece).to_bytes(4, "big") + piece)
        made.update(b"\xff\xff\xff\xff")
    return made.digest()


def _text(value: msgspec.Struct) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(value)).rstrip(b"=").decode()


def _read(decoder: msgspec.msgpack.Decoder[T], text: str) -> T | None:
    if len(text) > limits.QUERY_TOKEN_BYTES_MAX:
        return None
    try:
        return decoder.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (msgspec.MsgspecError, binascii.Error, ValueError, UnicodeError, RecursionError):
        return None
