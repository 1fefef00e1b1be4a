"""An answer as bytes, for tiers that other processes read, and later versions of this program.

::

    checksum  4 bytes, CRC-32 of what follows
    entry     MessagePack: key, tags, marks, times, who wrote it, and the value, compressed or not

A `Shape` says of what msgspec type a function's answers are.  An answer is stored under a hash of its key, the
tenant's rules and its shape's fingerprint, which changes with the type: a deploy never reads what it cannot, and while
it goes on the old and the new version have an answer each.

Values are MessagePack, never code.  What does not come back as it went (a tuple in an untyped list, an object) is
refused when it is to be stored, not when it is read.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import zlib
from collections.abc import Hashable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
import zstandard

from coord import errors, limits
from coord.core.eviction import Marks

_FORMAT: Final = b"cache entry 2"
_CHECKSUM_BYTES: Final = 4

_Mark: TypeAlias = tuple[str, int, int, int]


class Entry(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One answer.  Only ever grows at the end."""

    key: bytes
    tags: tuple[str, ...]
    marks: tuple[_Mark, ...]
    """(stream, partition, epoch, sequence): the answer has seen everything up to there."""
    loaded_at: float
    """When its load began, seconds since 1970 by its writer's clock;"""
    expires_at: float
    """until when it is fresh."""
    writer: str
    """The cache that loaded it, one of many."""
    eras: bytes
    """In which eras that was (`coord.cache.eras`)."""
    packed: bool
    value: bytes
    lease: bytes = b""
    """Under which it was loaded: whoever knows that this was taken after it had asked may take it for its own load."""

    def places(self) -> Marks:
        """The marks as `coord.core.eviction` knows them."""
        return {(stream, p): (epoch, seq) for stream, p, epoch, seq in self.marks}


class Shape:
    """What answers of one function are."""

    def __init__(self, type_: Any, version: int = 1, of: str = "") -> None:
        """`type_`: what msgspec decodes; True: whatever MessagePack has.  `version`: of what an answer means.

        `of`: whose answers these are: of two functions, in two programs, with one key each has its own.
        Raises `InvalidCacheKey` for what msgspec does not know.
        """
        self.type = Any if type_ is True else type_
        try:
            schema = msgspec.json.schema(self.type)
            self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(self.type)
        except (TypeError, ValueError, RecursionError) as exc:
            raise errors.InvalidCacheKey(f"answers of this type cannot be shared: {exc}", type=repr(type_)) from exc
        said = msgspec.json.encode([schema, version, repr(type_), of], order="deterministic")
        self.fingerprint: Final = _digest(said)

    def encode(self, value: Any) -> bytes | None:
        """None: what came back would not be equal to it, or of another type where the shape does not say of which."""
        try:
            body = msgspec.msgpack.encode(value)
            back = self._decoder.decode(body)
            faithful = bool(back == value) and (self.type is not Any or _is_alike(back, value))
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
            return None
        return body if faithful else None

    def decode(self, body: bytes) -> Any:
        """Raises msgspec's errors."""
        return self._decoder.decode(body)


def _is_alike(back: Any, value: Any) -> bool:
    """Whether two equal values are of the same types all the way down; depth is bounded: they were encoded."""
    if type(back) is not type(value):
        return False
    if isinstance(value, list):
        return all(map(_is_alike, back, value))
    if isinstance(value, dict):
        return all(map(_is_alike, back, value)) and all(map(_is_alike, back.values(), value.values()))
    return not isinstance(value, dt.datetime) or back.utcoffset() == value.utcoffset()


def key_bytes(key: Hashable) -> bytes:
    """Raises `InvalidCacheKey` for what is not made of text and tuples of text."""
    try:
        return msgspec.msgpack.encode(key)
    except (TypeError, ValueError, OverflowError) as exc:
        raise errors.InvalidCacheKey("a key that is shared is made of text", key=repr(key)[:256]) from exc


def key_of(said: bytes) -> Hashable:
    """The key of which `key_bytes` made these; raises `InvalidCacheKey`."""
    try:
        return _tuples(msgspec.msgpack.decode(said))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.InvalidCacheKey("these bytes are no key") from exc


def _tuples(said: Any) -> Hashable:
    if isinstance(said, list):
        return tuple(map(_tuples, said))
    if not isinstance(said, Hashable):
        raise errors.InvalidCacheKey("these bytes are no key")
    return said


def rules_fingerprint(rules: Mapping[str, tuple[str, ...]]) -> bytes:
    """Processes with other rules for tags have other answers: they do not know of each other's evictions."""
    return _digest(msgspec.json.encode({pattern: sorted(tags) for pattern, tags in rules.items()}, order="sorted"))


def name_of(key: bytes, shape: Shape, rules: bytes) -> str:
    """Under what an answer is stored: a token."""
    return _digest(b"".join((_FORMAT, shape.fingerprint, rules, key))).hex()


def encode(entry: Entry) -> bytes | None:
    """The bytes of an entry, its value compressed where that helps; None: more than a shared tier takes."""
    if len(entry.value) > limits.CACHE_VALUE_BYTES_MAX:
        return None
    if not entry.packed and len(entry.value) >= limits.CACHE_COMPRESS_BYTES:
        smaller = zstandard.ZstdCompressor(level=limits.COMPRESS_LEVEL).compress(entry.value)
        if len(smaller) < len(entry.value):
            entry = msgspec.structs.replace(entry, packed=True, value=smaller)
    body = msgspec.msgpack.encode(entry)
    return None if len(body) > limits.CACHE_ENTRY_BYTES_MAX - _CHECKSUM_BYTES else _checksum(body) + body


def decode(body: bytes) -> Entry:
    """The entry in `body`, its value unpacked; raises `CacheEntryDamaged`."""
    if len(body) <= _CHECKSUM_BYTES or body[:_CHECKSUM_BYTES] != _checksum(body[_CHECKSUM_BYTES:]):
        raise errors.CacheEntryDamaged("its checksum is wrong")
    try:
        entry = _decoder.decode(memoryview(body)[_CHECKSUM_BYTES:])
        return _unpacked(entry) if entry.packed else entry
    except (msgspec.MsgspecError, zstandard.ZstdError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.CacheEntryDamaged(str(exc)) from exc


def _unpacked(entry: Entry) -> Entry:
    if not 0 <= zstandard.frame_content_size(entry.value) <= limits.CACHE_VALUE_BYTES_MAX:
        raise errors.CacheEntryDamaged("its value does not say its size, or too large a one")
    value = zstandard.ZstdDecompressor().decompress(entry.value, max_output_size=limits.CACHE_VALUE_BYTES_MAX)
    return msgspec.structs.replace(entry, packed=False, value=value)


def _checksum(body: bytes | memoryview) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "big")


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


_decoder = msgspec.msgpack.Decoder(Entry)
