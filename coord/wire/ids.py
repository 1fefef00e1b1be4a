"""Identifiers: UUIDv7 for what happens once, hash-derived ones for what is decided again and again.

Pure: the time and the random bits are arguments.  Both kinds are written as UUIDs, so a
foreign tool can store them as such.
"""

from __future__ import annotations

import hashlib
from typing import Final

UNIX_MS_MAX: Final = (1 << 48) - 1
_DERIVED: Final = b"coord/derived/1"
_VARIANT: Final = {digit: f"{int(digit, 16) & 3 | 8:x}" for digit in "0123456789abcdef"}
"""A hexadecimal digit whose upper two bits are RFC 9562's variant."""


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


def derive_id(tenant: str, key: str, definition_version: str, step: str, attempt: int, ordinal: int) -> str:
    """The id of a decision's output: equal inputs give equal ids, in every process and language.

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
