"""Frames: many entries for one subject in one message.

Before the optional zstd, a frame is the MessagePack array
``[1, base_us, [[delta_us, data], …]]``: the version, a Unix time in microseconds, and the
entries, each with its distance from that time.  A thousand samples of a gauge are then
some 5 KB and one message, which is what makes telemetry cheap.

The decoded size is bounded before anything is allocated for it: by the size the zstd
header declares, and where it declares none by the output buffer itself.
"""

from __future__ import annotations

import functools
import struct
from datetime import datetime
from typing import Any, Final

import msgspec
import zstandard

from coord import limits
from coord.errors import InvalidFrame, PayloadTooLarge
from coord.wire import codec
from coord.wire.times import from_unix_us

VERSION: Final = 1

_ZSTD_LEVEL: Final = 3
_DOUBLE_BYTES: Final = 11
# The largest window a decoded frame can need; more would only reserve memory.
_WINDOW_BYTES_MAX: Final = limits.FRAME_BYTES_MAX


def pack(base_us: int, entries: list[tuple[int, Any]], *, compress: bool = False) -> bytes:
    """The bytes of a frame; `entries` are (delta_us, data) with data of builtin types."""
    if len(entries) > limits.FRAME_ENTRIES_MAX:
        raise PayloadTooLarge("too many entries for one frame", entries=len(entries))
    body = msgspec.msgpack.encode((VERSION, base_us, entries))
    if len(body) > limits.FRAME_BYTES_MAX:
        raise PayloadTooLarge("the frame is too large", bytes=len(body), bytes_max=limits.FRAME_BYTES_MAX)
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body) if compress else body


def pack_doubles(base_us: int, values: list[float]) -> bytes:
    """`pack` of these values, all at `base_us`: the same bytes in half the time, without a tuple for each."""
    count = len(values)
    if count > limits.FRAME_ENTRIES_MAX:
        raise PayloadTooLarge("too many entries for one frame", entries=count)
    # Each entry is 92 00 cb and the double: an array of two, the integer 0, "a double follows".
    entries = bytearray(_doubles(count).pack(*values))
    entries[0::_DOUBLE_BYTES] = b"\x92" * count
    entries[2::_DOUBLE_BYTES] = b"\xcb" * count
    start = msgspec.msgpack.encode((VERSION, base_us, ()))[:-1]
    length = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return start + length + entries


@functools.lru_cache(maxsize=32)
def _doubles(count: int) -> struct.Struct:
    """Three zero bytes before each; compiling it takes longer than packing."""
    return struct.Struct(">" + "3xd" * count)


def unpack(body: bytes, *, compressed: bool = False) -> tuple[int, list[Any]]:
    """(base_us, entries) of a frame; the entries themselves are not looked at.

    Raises `InvalidFrame`, `InvalidPayload`, `PayloadTooDeep` or `PayloadTooLarge`.
    """
    frame = codec.decode_msgpack(decoded(body, compressed=compressed))
    if type(frame) is not list or len(frame) != 3:
        raise InvalidFrame("a frame is an array of version, base time and entries")
    version, base_us, entries = frame
    if type(version) is not int or version != VERSION:
        raise InvalidFrame("not a frame version this release reads", version=repr(version)[:32])
    if type(base_us) is not int:
        raise InvalidFrame("the base time is not an integer of microseconds")
    if type(entries) is not list:
        raise InvalidFrame("the entries are not an array")
    if len(entries) > limits.FRAME_ENTRIES_MAX:
        raise PayloadTooLarge(
            "too many entries in one frame", entries=len(entries), entries_max=limits.FRAME_ENTRIES_MAX
        )
    return base_us, entries


def entry_time(entry: Any, base_us: int) -> datetime:
    """When an entry occurred; `InvalidFrame` if it is not a time and data."""
    if type(entry) is not list or len(entry) != 2:
        raise InvalidFrame("an entry is an array of a time and data")
    delta_us = entry[0]
    if type(delta_us) is not int:
        raise InvalidFrame("an entry's time is not an integer of microseconds")
    try:
        return from_unix_us(base_us + delta_us)
    except OverflowError as exc:
        raise InvalidFrame("an entry's time is outside the calendar", delta_us=delta_us) from exc


def decoded(body: bytes, *, compressed: bool) -> bytes:
    """The MessagePack of a frame; raises `InvalidFrame` or `PayloadTooLarge`."""
    if compressed:
        return _decompress(body)
    if len(body) > limits.FRAME_BYTES_MAX:
        raise PayloadTooLarge("the frame is too large", bytes=len(body), bytes_max=limits.FRAME_BYTES_MAX)
    return body


def _decompress(body: bytes) -> bytes:
    """Exactly one zstd frame, at most `limits.FRAME_BYTES_MAX` decoded, no dictionary."""
    try:
        declared = zstandard.frame_content_size(body)
        if declared > limits.FRAME_BYTES_MAX:
            raise PayloadTooLarge("the frame is too large", bytes=declared, bytes_max=limits.FRAME_BYTES_MAX)
        # max_output_size bounds the buffer where the header declares no size.
        return zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX).decompress(
            body, max_output_size=limits.FRAME_BYTES_MAX, allow_extra_data=False
        )
    except zstandard.ZstdError as exc:
        raise InvalidFrame(f"not zstd, or larger than {limits.FRAME_BYTES_MAX} bytes: {exc}") from exc
