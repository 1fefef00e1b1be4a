"""Identifiers: counted ones for what happens once, derived ones for what is decided again and again.

Pure: the random bits and the time are arguments.  What is drawn for every id anew, no columnstore makes
smaller; so the SDK's ids count up behind bits that are drawn once, and a derived id says in words what it is derived
from (docs/adr/0118).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from coord import limits

SESSION_BITS: Final = 74
"""As many as a UUIDv7 has."""

COUNT_MAX: Final = (1 << 48) - 1
"""The last id of a session."""

UNIX_MS_MAX: Final = (1 << 48) - 1
_DERIVED: Final = b"coord/derived/1"
_VARIANT: Final = {digit: f"{int(digit, 16) & 3 | 8:x}" for digit in "0123456789abcdef"}
"""A hexadecimal digit whose upper two bits are RFC 9562's variant."""


def counted_id(session: int, count: int) -> str:
    """The `count`-th id of a session: a UUIDv8 (RFC 9562) of its 74 random bits and 48 bits that count.

    The bits in front, so the ids of a session are in order, and differ in their last characters.
    """
    if not 0 <= session < 1 << SESSION_BITS:
        raise ValueError(f"a session has {SESSION_BITS} bits")
    if not 0 <= count <= COUNT_MAX:
        raise ValueError(f"count must be within 0 and {COUNT_MAX}")
    upper, middle, lower = session >> 26, session >> 14 & 0xFFF, session & 0x3FFF
    return _text(upper << 80 | (0x8000 | middle) << 64 | (0x8000 | lower) << 48 | count)


def uuid7(unix_ms: int, random_80bits: int) -> str:
    """The UUIDv7 (RFC 9562) of a Unix time in milliseconds and 80 random bits.

    74 of the bits are used: the upper 12 beside the version, the lower 62 beside the
    variant.  A caller that wants ids in order within a millisecond counts in the upper bits.
    """
    if not 0 <= unix_ms <= UNIX_MS_MAX:
        raise ValueError(f"unix_ms must be within 0 and {UNIX_MS_MAX}")
    value = (
        unix_ms << 80
        | 0x7000 << 64
        | ((random_80bits >> 68) & 0xFFF) << 64
        | 0x8000_0000_0000_0000
        | (random_80bits & 0x3FFF_FFFF_FFFF_FFFF)
    )
    return _text(value)


_plain = re.compile(rf"[\x21\x23\x24\x26-\x7e]{{1,{limits.EVENT_ID_BYTES_MAX}}}").fullmatch
"""Stands in a header as it is: see `headers.quote`."""


def derive_id(tenant: str, key: str, definition_version: str, step: str, attempt: int, ordinal: int) -> str:
    """The id of a decision's output: equal inputs give equal ids, in every process and language.

    ``{key}:{definition_version}:{step}:{attempt}.{ordinal}``; ids are unique for an author only, and the author's
    tenant is not repeated.  Where that is no plain text, is too long or could be read in two ways: `hashed_id`.
    """
    said = f"{key}:{definition_version}:{step}:{attempt}.{ordinal}"
    if _plain(said) and ":" not in key and ":" not in definition_version:
        return said
    return hashed_id(tenant, key, definition_version, step, attempt, ordinal)


def hashed_id(tenant: str, key: str, definition_version: str, step: str, attempt: int, ordinal: int) -> str:
    """What names the same by a hash: of a fixed length, and a token.

    A UUIDv8 of the first 16 bytes of SHA-256 over ``coord/derived/1`` and the six fields,
    each as a netstring (decimal length in bytes, ``:``, the UTF-8 bytes, ``,``); numbers
    are written in decimal.
    """
    fields = [field.encode() for field in (tenant, key, definition_version, step, str(attempt), str(ordinal))]
    digits = hashlib.sha256(_DERIVED + b"".join([b"%d:%b," % (len(field), field) for field in fields])).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:32]}"


def unix_ms_of(uuid7_text: str) -> int:
    """The time a UUIDv7 was made, in Unix milliseconds; ValueError if it is not one."""
    digits = uuid7_text.replace("-", "")
    if len(digits) != 32 or digits[12] != "7":
        raise ValueError("not a UUIDv7")
    return int(digits[:12], 16)


def _text(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
