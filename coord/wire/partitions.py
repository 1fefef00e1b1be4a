"""Which of the sixteen partitions a key or an agent belongs to: known to whoever writes subjects, in every language."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from coord import limits


def fnv1a_32(data: bytes) -> int:
    """FNV-1a, 32 bits: the hash the server's ``{{partition(n, …)}}`` uses.  Normative."""
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


# FNV-1a modulo a power of two needs only that many low bits of the state, because neither
# xor nor multiplication carries downwards.  One table look-up per byte is 3.5 times as
# fast as the full hash; a property test compares the two.
_MASK: Final = limits.PARTITIONS - 1
_STEP: Final = tuple(((x & _MASK) * 0x01000193) & _MASK for x in range(256))


@lru_cache(maxsize=8192)
def partition(token: str) -> int:
    """The partition (0 to 15) of a key or agent: FNV-1a 32 of its UTF-8 bytes, mod 16."""
    data = token.encode()
    state = _after(data[:-2])
    for byte in data[-2:]:
        state = _STEP[state ^ byte]
    return state


@lru_cache(maxsize=1024)
def _after(head: bytes) -> int:
    """The state after all but the last two bytes: ids are counted, and share them with a hundred others."""
    state = 0x811C9DC5 & _MASK
    for byte in head:
        state = _STEP[state ^ byte]
    return state
