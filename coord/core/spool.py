"""The spool's file format, and what a damaged file still says: pure, the files are `coord.client.spool`'s.

A segment is a header and records, appended only::

    "coordspl" u32 version | u64 number of its first record
    u32 length | u32 crc32 of the payload | payload      (little-endian)

A payload is the MessagePack array ``[lane, home, group, count, event_id, subject, headers, body, at_ms, sent]``:
one message as it will be sent, so that its ``Nats-Msg-Id`` is the same however often it is.

Whatever was done to a file, reading it gives a prefix of what was written, and a named
problem if anything follows that prefix.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, Literal

import msgspec

from coord import limits

VERSION: Final = 1
_MAGIC: Final = b"coordspl"
_HEADER: Final = struct.Struct("<8sIQ")
_PREFIX: Final = struct.Struct("<II")

HEADER_BYTES: Final = _HEADER.size


class Record(msgspec.Struct, array_like=True, frozen=True):
    """One message that waits for the broker."""

    lane: int
    home: int
    group: str
    count: int
    """Facts or samples in it."""
    event_id: str
    subject: str
    headers: bytes
    body: bytes
    at_ms: int = 0
    """When it was written: milliseconds since 1970."""
    sent: bool = False
    """Whether it was in flight before it was written: the log may have it."""


Problem = Literal["torn", "damaged", "not a spool", "newer version"]
"""torn: the file ends within a record, as after a crash; damaged: a whole record is not what was written."""


class Scan(msgspec.Struct, frozen=True):
    """What a segment holds."""

    first: int
    """Number of its first record; -1 where the header cannot be read."""
    sizes: list[int]
    """Bytes of each whole record, prefix included, in order."""
    good_bytes: int
    """Length of what was read without a problem."""
    problem: Problem | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def header(first: int) -> bytes:
    """How a segment begins whose first record has this number."""
    return _HEADER.pack(_MAGIC, VERSION, first)


def pack(record: Record) -> bytes:
    """A record's bytes."""
    payload = _encode(record)
    return _PREFIX.pack(len(payload), zlib.crc32(payload)) + payload


def unpack(data: bytes) -> Record:
    """The record of `pack`; ValueError if it is not what was written."""
    length, crc = _PREFIX.unpack_from(data)
    payload = data[_PREFIX.size :]
    if length != len(payload) or zlib.crc32(payload) != crc:
        raise ValueError("a record's checksum does not fit")
    try:
        return _decode(payload)
    except msgspec.MsgspecError as exc:
        raise ValueError("a record is not a message") from exc


def scan(data: bytes) -> Scan:
    """Read a whole segment; never raises."""
    if len(data) < HEADER_BYTES:
        torn = header(0)[: min(len(data), 12)] == data[:12]
        return Scan(-1, [], 0, "torn" if torn else "not a spool")
    magic, version, first = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        return Scan(-1, [], 0, "not a spool")
    if version != VERSION:
        return Scan(first, [], 0, "newer version")
    sizes: list[int] = []
    at = HEADER_BYTES
    while at < len(data):
        size, problem = _record_at(data, at)
        if problem is not None:
            return Scan(first, sizes, at, problem)
        sizes.append(size)
        at += size
    return Scan(first, sizes, at, None)


def _record_at(data: bytes, at: int) -> tuple[int, Problem | None]:
    if at + _PREFIX.size > len(data):
        return 0, "torn"
    length, _ = _PREFIX.unpack_from(data, at)
    if length > limits.SPOOL_RECORD_BYTES_MAX:
        return 0, "damaged"
    end = at + _PREFIX.size + length
    if end > len(data):
        return 0, "torn"
    try:
        unpack(data[at:end])
    except ValueError:
        # The last record of a file may have its length and not all of its pages: a power cut.
        return 0, "torn" if end == len(data) else "damaged"
    return end - at, None
