"""W3C Trace Context, the part coord carries: parse, make and continue a ``traceparent``.

Pure: identifiers come from random bits that the caller supplies.  A trace context that is
malformed is dropped, never an error: the specification asks for it, and a broken tracer
must not lose a fact.  coord records no spans; it passes the context through, so that the
spans of agents that do record them join into one trace.
"""

from __future__ import annotations

import re
from typing import Final, Self

import msgspec

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED: Final = 0x01


class TraceContext(msgspec.Struct, frozen=True):
    """One position in a trace."""

    trace_id: str
    """32 hexadecimal digits, not all zero: the whole trace."""
    span_id: str
    """16 hexadecimal digits, not all zero: this step."""
    flags: int = _SAMPLED
    """Bit 0: sampled, that is, somebody records this trace."""

    @property
    def sampled(self) -> bool:
        """Whether the caller records this trace."""
        return bool(self.flags & _SAMPLED)

    @property
    def traceparent(self) -> str:
        """The header's value, as version 00 writes it."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def child(self, span_bits: int) -> Self:
        """The next step of the same trace; `span_bits` is 64 random bits."""
        return type(self)(self.trace_id, _span_id(span_bits), self.flags)

    def __str__(self) -> str:
        return self.traceparent


def parse(value: str | None) -> TraceContext | None:
    """The context of a ``traceparent`` header; None when there is none or it is malformed.

    Future versions are read as the specification says: by the four fields of version 00,
    whatever follows them.
    """
    match = _TRACEPARENT.fullmatch(value) if value else None
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if trace_id == "0" * 32 or span_id == "0" * 16:
        return None
    # Of the flags only 'sampled' has a meaning in version 00; a newer version's bits are not passed on.
    return TraceContext(trace_id, span_id, int(flags, 16) & _SAMPLED)


def start(trace_bits: int, span_bits: int, *, sampled: bool = True) -> TraceContext:
    """A new trace; `trace_bits` is 128 random bits, `span_bits` 64."""
    # Zero means "invalid"; it has probability 2**-128, and one is as random as any other number.
    trace_id = f"{(trace_bits & (1 << 128) - 1) or 1:032x}"
    return TraceContext(trace_id, _span_id(span_bits), _SAMPLED if sampled else 0)


def follow(traceparent: str | None, trace_bits: int, span_bits: int) -> TraceContext:
    """Continue the trace that caused this step, or start one."""
    parent = parse(traceparent)
    return parent.child(span_bits) if parent is not None else start(trace_bits, span_bits)


def _span_id(bits: int) -> str:
    return f"{(bits & (1 << 64) - 1) or 1:016x}"
